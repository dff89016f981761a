"""Clusters: adapters, models that a look misses, what became of each look, declared sources, objectives of keys.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("objective", sa.Text(), nullable=True))
    op.add_column("backends", sa.Column("discover", sa.Boolean(), nullable=True))
    op.add_column("models", sa.Column("parent", sa.Text(), nullable=True))
    op.add_column("models", sa.Column("missed", sa.Integer(), nullable=True))
    op.create_table(
        "looks",
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("looked_at", sa.BigInteger(), nullable=False),
        sa.Column("listed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("backend", name=op.f("pk_looks")),
    )


def downgrade() -> None:
    op.drop_table("looks")
    op.drop_column("models", "missed")
    op.drop_column("models", "parent")
    op.drop_column("backends", "discover")
    op.drop_column("api_keys", "objective")
