"""Whether the registry has changed, in any process, for the price of reading one integer, or less."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable

from sqlalchemy import select

from router.registry import schema
from router.registry.database import Database, StoreError, file_identity

__all__ = ["RevisionReader", "Stamp", "Trace", "Watch"]

Stamp = tuple[tuple[int, int] | None, int]
"""A file and its revision: another file in its place may be at the same revision."""

Trace = tuple[tuple[int, int, int, int] | None, ...]
"""What the file system tells of the registry's file and its log: device, inode, size, time of change."""

_BUSY_TIMEOUT = 0.25
_SKIPS = 9
"""Looks that may be skipped in a row, should a file system ever hide a change."""
_TICK_NS = 50_000_000
"""More than the file system's clock takes for a step (10 ms at most on Linux)."""


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
            with self._database.glancing() as connection:
                return None, int(connection.execute(select(schema.registry_state.c.revision)).scalar_one())
        with self._lock:
            try:
                return self._read_sqlite()
            except (sqlite3.Error, TypeError) as error:  # TypeError: the one row is missing
                self._drop()
                raise StoreError(f"The registry's file {path} cannot be read: {error}.") from error

    def trace(self) -> Trace | None:
        """Return what is another after every change; microseconds, and no lock.

        None where that cannot be told: a server, a missing file, or one that has changed just now, so that one
        more change might leave the same time behind.
        """
        path = self._database.path
        if path is None:
            return None
        found = (_trace_of(f"{path}"), _trace_of(f"{path}-wal"))
        newest = max((trace[3] for trace in found if trace is not None), default=0)
        return None if found[0] is None or time.time_ns() - newest < _TICK_NS else found

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


class Watch:
    """Tells one who looks at the registry again and again which looks are worth a thread.

    Args:
        trace: Returns the trace of the registry's file.
    """

    def __init__(self, trace: Callable[[], Trace | None]) -> None:
        self._ask = trace
        self._trace: Trace | None = None
        self._skipped = 0

    def touched(self) -> bool:
        """Return whether the file may have changed since this was last True; every tenth answer is True anyway."""
        trace = self._ask()
        if trace is not None and trace == self._trace and self._skipped < _SKIPS:
            self._skipped += 1
            return False
        self._trace, self._skipped = trace, 0
        return True


def _trace_of(path: str) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a Path costs as much as the question
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
