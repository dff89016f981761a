"""The migrations: complete, append-only, and safe when several processes start at once."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import router.migrations
from router.registry.database import migrate, migration_config, open_database
from router.registry.schema import metadata
from router.registry.store import RegistryStore, open_store

_FOLDER = Path(next(iter(router.migrations.__path__)))


def test_migrations_lead_to_the_schema(store: RegistryStore) -> None:
    """Migrating from nothing gives exactly the tables that the code uses."""
    with store.database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrations_are_append_only() -> None:
    """A landed migration is listed with its checksum and never changes; a new one adds its line."""
    listed = dict(reversed(line.split()) for line in (_FOLDER / "checksums").read_text().splitlines())
    present = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (_FOLDER / "versions").glob("0*.py")
    }
    assert listed == present


def test_migrations_go_back_and_forth(store: RegistryStore) -> None:
    """Every migration can be undone and done again."""
    with store.database.writing() as connection:
        config = migration_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        command.upgrade(config, "head")
    assert store.revision() == 0


def test_migrate_again_changes_nothing(store: RegistryStore) -> None:
    """A registry at head stays as it is."""
    store.create_key("a")
    migrate(store.database)
    assert len(store.api_keys()) == 1


def test_open_store_in_two_processes_at_once(path: Path) -> None:
    """Processes that start together on no file at all migrate it once and both succeed."""
    program = "import sys; from router.registry.store import open_store; open_store(sys.argv[1]).close()"
    starts = [subprocess.Popen([sys.executable, "-W", "error", "-c", program, str(path)]) for _ in range(2)]
    assert [start.wait() for start in starts] == [0, 0]
    assert _state(path) == ([("0001",)], [(1, 0)])


def test_open_store_in_many_threads_at_once(path: Path) -> None:
    """However many meet at the lock, one migrates and the others find it done."""
    with ThreadPoolExecutor(8) as pool:
        for store in pool.map(lambda _: open_store(path), range(8)):
            store.close()
    assert _state(path) == ([("0001",)], [(1, 0)])


def _state(path: Path) -> tuple[list[Any], list[Any]]:
    connection = sqlite3.connect(path)
    try:
        version = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        return version, connection.execute("SELECT id, revision FROM registry_state").fetchall()
    finally:
        connection.close()


def test_migrations_travel_with_the_package() -> None:
    """The files that Alembic needs are where an installed package has them."""
    assert (_FOLDER / "env.py").is_file()
    assert (_FOLDER / "script.py.mako").is_file()


def test_open_database_takes_a_sqlite_url(path: Path) -> None:
    """A `sqlite:///` URL means its file."""
    database = open_database(f"sqlite:///{path}")
    database.close()
    assert path.is_file()
