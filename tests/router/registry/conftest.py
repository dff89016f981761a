"""Fixtures of the registry's tests: a real SQLite file each, and for most of them a real PostgreSQL database too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router.registry.store import RegistryStore, open_store
from tests.support.postgres import PostgresProcess, own_postgres, postgres

__all__ = ["own_postgres", "postgres"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests on both kinds of database, but those that do something to the SQLite file."""
    if "place" in metafunc.fixturenames:
        asked = metafunc.definition.obj.__code__.co_varnames[: metafunc.definition.obj.__code__.co_argcount]
        kinds = ["sqlite"] if "path" in asked and "place" not in asked else ["sqlite", "postgres"]
        metafunc.parametrize("place", kinds, indirect=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's registry is, if that is a file; its journals go there in any case."""
    return tmp_path / "data" / "models.db"


@pytest.fixture(scope="session")
def migrated_database(postgres: PostgresProcess) -> str:
    """A database at the newest schema, for others to be copied from."""
    url = postgres.database()
    open_store(url).close()
    return url


@pytest.fixture
def place(request: pytest.FixtureRequest, path: Path) -> Iterator[Path | str]:
    """What the test's registry is opened by: a path, or a database's URL."""
    if request.param == "sqlite":
        yield path
        return
    server = request.getfixturevalue("postgres")
    url = server.database(request.getfixturevalue("migrated_database"))
    yield url
    server.drop(url)


@pytest.fixture
def store(place: Path | str) -> Iterator[RegistryStore]:
    """An open registry."""
    opened = open_store(place)
    yield opened
    opened.close()
