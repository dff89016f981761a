"""Whether the registry has changed, in any process, for the price of reading one integer."""

from __future__ import annotations

import sqlite3
import threading

from sqlalchemy import select

from router.registry import schema
from router.registry.database import Database, StoreError, file_identity

__all__ = ["RevisionReader", "Stamp"]

Stamp = tuple[tuple[int, int] | None, int]
"""A file and its revision: another file in its place may be at the same revision."""

_BUSY_TIMEOUT = 0.25


class RevisionReader:
    """Reads the registry's revision several times a second.

    On SQLite a kept connection asks `PRAGMA data_version`, which costs no disk access, and reads
    the revision only when another connection has committed something.

    Args:
        database: The database to watch.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._kept: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._data_version = -1
        self._revision = -1

    def read(self) -> Stamp:
        """Return which file was read, and its revision.

        Raises:
            StoreError: The database does not answer.
        """
        path = self._database.path
        if path is None:
            with self._database.reading() as connection:
                return None, int(connection.execute(select(schema.registry_state.c.revision)).scalar_one())
        with self._lock:
            try:
                return self._read_sqlite()
            except (sqlite3.Error, TypeError) as error:  # TypeError: the one row is missing
                self._drop()
                raise StoreError(f"The registry's file {path} cannot be read: {error}.") from error

    def _read_sqlite(self) -> Stamp:
        path = self._database.path
        assert path is not None
        identity = file_identity(path)
        if identity != self._file:
            self._drop()
        if self._kept is None:
            self._kept = sqlite3.connect(
                f"{path.as_uri()}?mode=rw",
                uri=True,
                timeout=_BUSY_TIMEOUT,
                isolation_level=None,
                check_same_thread=False,
            )
            self._file = identity
        version = self._kept.execute("PRAGMA data_version").fetchone()[0]
        if version != self._data_version:
            self._revision = int(self._kept.execute("SELECT revision FROM registry_state").fetchone()[0])
            self._data_version = version
        return self._file, self._revision

    def _drop(self) -> None:
        if self._kept is not None:
            self._kept.close()
        self._kept = None
        self._file = None
        self._data_version = -1

    def close(self) -> None:
        """Close the kept connection."""
        with self._lock:
            self._drop()
