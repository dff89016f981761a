"""LeaseKeeper: renews a process's leases in the background, a few times a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from router.limits.leases import LeaseStore
from router.limits.limiter import Limiter, Quota
from router.types import Model

__all__ = ["LeaseKeeper"]

_EVERY = 1.0
_BREATH = 0.02
"""Seconds between two renewals at least: what runs low meanwhile goes together."""
_TTL = 5.0
_TTL_AT_REST = 60.0
_AT_ONCE = 50
"""Deployments in one call: the store does nothing else meanwhile."""


class Snapshot(Protocol):
    """The registry at one moment."""

    @property
    def models(self) -> Mapping[str, Model]:
        """Models by id."""
        ...


class LeaseKeeper:
    """Reports what a limiter has spent, and brings it leases to spend.

    Leases that run low are renewed at once, those in use every second; those at rest are longer, and renewed
    a few times a minute.

    Args:
        limiter: Whose leases they are.
        store: Who grants them.
        catalog: Returns the registry's present snapshot, whose deployments get leases before the first request.
        holder: This process's name, which no other has.
        clock: The limiter's clock.
    """

    def __init__(
        self,
        limiter: Limiter,
        store: LeaseStore,
        catalog: Callable[[], Snapshot],
        holder: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limiter = limiter
        self._store = store
        self._catalog = catalog
        self._holder = holder
        self._clock = clock
        self._seen: Snapshot | None = None
        self._wake = asyncio.Event()
        limiter.rouse = self._wake.set

    async def run(self) -> None:
        """Renew until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            await self.renew()
            timer = loop.call_later(_EVERY, self._wake.set)
            await self._wake.wait()
            timer.cancel()
            await asyncio.sleep(_BREATH)

    async def renew(self) -> None:
        """Report and renew what is due, once."""
        catalog = self._catalog()
        if catalog is not self._seen:
            self._seen = catalog
            self._limiter.learn(found for model in catalog.models.values() for found in model.deployments)
        if not self._store.available:
            if not self._limiter.away:
                self._limiter.lose()
            return
        for due, seconds in zip(self._limiter.due(), (_TTL, _TTL_AT_REST), strict=True):
            for start in range(0, len(due), _AT_ONCE):
                if not await self._exchange(due[start : start + _AT_ONCE], seconds):
                    self._limiter.lose()
                    return

    async def close(self) -> None:
        """Return every lease, so that others need not wait until it ends by itself."""
        if self._store.available:
            asks = [
                ask._replace(keep=ask.must, want=ask.must, need=0) for ask in self._limiter.ask(self._limiter.all())
            ]
            for start in range(0, len(asks), 3 * _AT_ONCE):
                await self._store.lease(self._holder, asks[start : start + 3 * _AT_ONCE], _TTL)

    async def _exchange(self, quotas: list[Quota], seconds: float) -> bool:
        asks = self._limiter.ask(quotas)
        # The store begins to count the time later than this, so a lease ends here first.
        until = self._clock() + seconds
        grants = await self._store.lease(self._holder, asks, seconds)
        if grants is None:
            return False
        self._limiter.take(quotas, asks, grants, until)
        return True
