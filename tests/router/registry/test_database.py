"""Opening the database: pragmas, clear refusals, and files that vanish or are replaced."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from router.registry.database import open_database
from router.registry.store import RegistryStore, StoreError, open_store


def test_open_store_creates_the_folder_and_a_private_file(path: Path) -> None:
    """The file and its folder come into being, readable by their owner alone."""
    open_store(path).close()
    assert path.stat().st_mode & 0o077 == 0


def test_connections_have_the_pragmas(store: RegistryStore, path: Path) -> None:
    """Every connection writes ahead, waits for locks and keeps references whole."""
    with store.database.reading() as connection:
        found = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 5000}


@pytest.mark.parametrize("name", ["", ":memory:", "sqlite://"])
def test_open_database_refuses_memory(name: str) -> None:
    """A registry in memory could be seen by one process only."""
    with pytest.raises(StoreError, match="needs a file"):
        open_database(name)


def test_open_database_refuses_unknown_servers() -> None:
    """A URL of another kind of database is refused in a sentence."""
    with pytest.raises(StoreError, match="postgresql://"):
        open_database("nosuch://host/db")


def test_open_store_refuses_a_damaged_file(path: Path) -> None:
    """A file that is no database is refused in a sentence, and left as it is."""
    path.parent.mkdir()
    path.write_bytes(b"this is not a database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        open_store(path)
    assert path.read_bytes().startswith(b"this is not")


def test_open_store_refuses_a_newer_schema(path: Path) -> None:
    """A registry that a newer program has migrated is left alone."""
    open_store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match="newer than this program"):
        open_store(path)


def test_a_vanished_file_is_an_error_and_not_an_empty_registry(store: RegistryStore, path: Path) -> None:
    """A registry removed at run time is not recreated without its keys; a restored one works again."""
    made = store.create_key("a")
    aside = path.with_name("aside.db")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    for use in (store.revision, store.load, store.export):
        with pytest.raises(StoreError):
            use()
    assert not path.exists()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{aside}{suffix}").rename(f"{path}{suffix}")
    assert [row["id"] for row in store.load().keys] == [made.id]
    assert store.revision() == 1


def test_a_replaced_file_is_noticed(store: RegistryStore, path: Path, tmp_path: Path) -> None:
    """Pooled connections do not go on writing into a file that another has taken the place of."""
    other = open_store(tmp_path / "other.db")
    other.create_key("restored")
    other.close()
    store.create_key("lost")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    (tmp_path / "other.db").replace(path)
    assert [row["name"] for row in store.load().keys] == ["restored"]


def test_a_write_that_fails_changes_nothing(store: RegistryStore) -> None:
    """A transaction with an error in it leaves no trace, and tells what kind of error it was."""
    with pytest.raises(StoreError) as caught, store.database.writing() as connection:
        connection.execute(text("UPDATE registry_state SET revision = 7"))
        connection.execute(text("INSERT INTO registry_state (id, revision) VALUES (1, 8)"))
    assert caught.value.about_rows
    assert store.revision() == 0
