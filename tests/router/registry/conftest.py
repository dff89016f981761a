"""Fixtures of the registry's tests: a real SQLite file each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router.registry.store import RegistryStore, open_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's registry is."""
    return tmp_path / "data" / "models.db"


@pytest.fixture
def store(path: Path) -> Iterator[RegistryStore]:
    """An open registry."""
    opened = open_store(path)
    yield opened
    opened.close()
