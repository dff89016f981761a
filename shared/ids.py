"""Ids that nobody can guess, made in batches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

__all__ = ["IdSource"]

_BATCH = 128
_RANDOM = 8


class IdSource:
    """Makes ids of one kind: a prefix and 24 hex digits, eight of the time and sixteen at random.

    Ids of one moment begin alike, so that an index over them grows at its end: with ids that lie anywhere,
    each row of a large table writes a page of the index of its own. The operating system is asked for many
    ids at once. A process that forks makes its own source afterwards.

    Args:
        prefix: What the ids begin with, such as `req_`.
        clock: Seconds since the epoch.
    """

    def __init__(self, prefix: str, clock: Callable[[], float] = time.time) -> None:
        self._prefix = prefix
        self._clock = clock
        self._ready: list[str] = []

    def make(self) -> str:
        """Return an id that was never returned before; safe to call from several threads."""
        try:
            return self._ready.pop()
        except IndexError:
            fresh = self._batch()
            made = fresh.pop()
            self._ready = fresh
            return made

    def _batch(self) -> list[str]:
        head = f"{self._prefix}{int(self._clock()) & 0xFFFFFFFF:08x}"
        digits = os.urandom(_RANDOM * _BATCH).hex()
        return [head + digits[at : at + 2 * _RANDOM] for at in range(0, len(digits), 2 * _RANDOM)]
