"""State within this process: for tests, and where no Redis is wanted."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from router.limits.book import LeaseBook
from router.limits.leases import Ask, Grant

__all__ = ["MemoryStore"]


class MemoryStore:
    """A bounded `StateStore`, the least recently used entry of which goes first, and a `LeaseStore`.

    Args:
        max_bytes: Bound of all keys and values together.
        clock: Monotonic seconds.
    """

    def __init__(self, max_bytes: int = 64 * 1024 * 1024, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._clock = clock
        self._book = LeaseBook()

    @property
    def available(self) -> bool:
        """Always True."""
        return True

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None where there is none or its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, value = entry
        if expires <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Keep a value for `ttl` seconds; one larger than the bound is not kept."""
        self._drop(key)
        if len(key) + len(value) > self._max_bytes:
            return
        self._entries[key] = (self._clock() + ttl, value)
        self._bytes += len(key) + len(value)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    async def put_if_absent(self, key: str, value: bytes, ttl: float) -> bool:
        """Keep a value where there is none; say whether that was so."""
        if await self.get(key) is not None:
            return False
        await self.put(key, value, ttl)
        return True

    async def delete(self, key: str) -> None:
        """Forget a value."""
        self._drop(key)

    async def lease(self, holder: str, asks: Sequence[Ask], ttl: float) -> list[Grant]:
        """Book what a holder has spent, and renew its leases."""
        now = int(self._clock() * 1000)
        return [self._book.lease(holder, ask, now, int(ttl * 1000)) for ask in asks]

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(key) + len(entry[1])
