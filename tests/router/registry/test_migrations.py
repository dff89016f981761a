"""The migrations: complete, append-only, and safe when several processes start at once."""

from __future__ import annotations

import ast
import hashlib
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import router.migrations
from router.registry.build import build_catalog
from router.registry.database import migrate, open_database
from router.registry.manifest import parse_manifest
from router.registry.migration import migration_config, upgrade
from router.registry.schema import metadata
from router.registry.store import RegistryStore, open_store

HEAD = "0004"
_FOLDER = Path(next(iter(router.migrations.__path__)))


@pytest.fixture
def migrated(store: RegistryStore) -> RegistryStore:
    """A registry made by its migrations, one after the other."""
    with store.database.writing() as connection:
        command.downgrade(migration_config(connection), "base")
        upgrade(connection)
    return store


def test_migrations_lead_to_the_schema(migrated: RegistryStore) -> None:
    """Migrating from nothing gives exactly the tables that the code uses."""
    with migrated.database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_new_registry_is_as_if_migrated(migrated: RegistryStore, path: Path, tmp_path: Path) -> None:
    """A new file, which no migration has touched, has the same tables, keys, indexes and rows."""
    fresh = open_store(tmp_path / "fresh.db")
    fresh.close()
    assert migrated.database.path == path
    assert _described(tmp_path / "fresh.db") == _described(path)


def test_head_is_what_alembic_says(store: RegistryStore) -> None:
    """The file names alone tell the newest revision."""
    head = ScriptDirectory.from_config(migration_config()).get_current_head()
    with store.database.reading() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == head


def test_an_older_registry_is_migrated(path: Path) -> None:
    """A file at no revision that is not empty goes through the migrations, in one transaction."""
    open_store(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(f'DROP TABLE "{name}"')
        connection.execute("CREATE TABLE somebody_elses (id INTEGER)")
    open_store(path).close()
    assert _state(path) == ([(HEAD,)], [(1, 0)])


def test_policies_of_the_first_schema_do_not_hedge(store: RegistryStore) -> None:
    """A registry from before there was hedging keeps its policies, and nobody is asked twice."""
    with store.database.writing() as connection:
        command.downgrade(migration_config(connection), "0001")
        connection.exec_driver_sql(
            "INSERT INTO policies (name, source, position, candidates, weights, constraints)"
            " VALUES ('p', 'manifest', 0, '[\"*\"]', '{}', '{}')"
        )
        upgrade(connection)
    assert [row["hedge"] for row in store.load().policies] == [None]


def _described(path: Path) -> dict[str, list[Any]]:
    """Return each table's columns, foreign keys, indexes and rows."""
    with closing(sqlite3.connect(path)) as connection:

        def told(query: str) -> list[Any]:
            return sorted(row[1:] for row in connection.execute(query))

        def index(name: str, unique: int, origin: str) -> tuple[Any, ...]:
            # SQLite numbers the indexes that no name was given to.
            return "" if "autoindex" in name else name, unique, origin, told(f"PRAGMA index_info({name})")

        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: [
                told(f"PRAGMA table_info({name})"),
                told(f"PRAGMA foreign_key_list({name})"),
                sorted(index(*row[:3]) for row in told(f"PRAGMA index_list({name})")),
                connection.execute(f"SELECT * FROM {name}").fetchall(),
            ]
            for name in names
        }


def test_migrations_are_append_only() -> None:
    """A landed migration is listed with its checksum and never changes; a new one adds its line."""
    listed = dict(reversed(line.split()) for line in (_FOLDER / "checksums").read_text().splitlines())
    present = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (_FOLDER / "versions").glob("0*.py")
    }
    assert listed == present


def test_migrations_only_add() -> None:
    """Routers of the version before go on reading and writing while a rollout migrates their database."""
    for number, file in enumerate(sorted((_FOLDER / "versions").glob("0*.py"))):
        (upgrading,) = [node for node in ast.parse(file.read_text()).body if getattr(node, "name", None) == "upgrade"]
        calls = [node for node in ast.walk(upgrading) if isinstance(node, ast.Call)]
        done = {ast.unparse(call.func) for call in calls if ast.unparse(call.func).startswith("op.")}
        if number:  # the first makes everything
            assert done <= {"op.add_column", "op.create_table", "op.create_index", "op.f"}, file.name
            added = [ast.unparse(call.args[1]) for call in calls if ast.unparse(call.func) == "op.add_column"]
            assert all("nullable=True" in column or "server_default" in column for column in added), file.name


def test_migrations_go_back_and_forth(store: RegistryStore) -> None:
    """Every migration can be undone and done again."""
    with store.database.writing() as connection:
        command.downgrade(migration_config(connection), "base")
        upgrade(connection)
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
    assert _state(path) == ([(HEAD,)], [(1, 0)])


def test_open_store_in_many_threads_at_once(path: Path) -> None:
    """However many meet at the lock, one migrates and the others find it done."""
    with ThreadPoolExecutor(8) as pool:
        for store in pool.map(lambda _: open_store(path), range(8)):
            store.close()
    assert _state(path) == ([(HEAD,)], [(1, 0)])


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


def test_a_registry_of_the_first_schema_keeps_its_backends(path: Path) -> None:
    """Backends of before say nothing of key headers and endpoints, and nothing is assumed of them."""
    manifest = 'backends: [{name: b, dialect: openai, base_url: "http://h/v1", tier: external}]'
    with closing(open_store(path)) as store:
        store.apply(parse_manifest(manifest))
        with store.database.writing() as connection:
            command.downgrade(migration_config(connection), "0001")
    with closing(open_store(path)) as store:
        backend = build_catalog(store.load()).backends["b"]
        assert (backend.key_header, backend.endpoints) == (None, frozenset())
        assert store.apply(parse_manifest(manifest)) == ()
