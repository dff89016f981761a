"""Migrating the registry's schema with Alembic; imported only where something is to be migrated."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from router.registry.database import MIGRATIONS

__all__ = ["migration_config", "upgrade"]


def migration_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration.

    Args:
        connection: What migrations work on, inside the caller's transaction.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Bring the schema to head, inside the caller's transaction."""
    command.upgrade(migration_config(connection), "head")
