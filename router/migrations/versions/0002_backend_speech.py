"""Backends say where their key goes and which endpoints they have.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("backends", sa.Column("key_header", sa.Text(), nullable=True))
    op.add_column("backends", sa.Column("endpoints", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("backends", "endpoints")
    op.drop_column("backends", "key_header")
