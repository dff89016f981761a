"""Alembic's entry: migrates over the connection (and in the transaction) that the caller opened.

`registry.database.migrate` holds the lock and the transaction, so this module opens neither.
"""

from __future__ import annotations

from alembic import context

from router.registry.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
