"""Policies say whether and when a slow stream is asked for a second time, elsewhere.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("policies", sa.Column("hedge", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("policies", "hedge")
