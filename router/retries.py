"""Asking again: once, after a failure that may have passed; and again and again, a cluster that is starting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.health import HealthBoard
from router.types import Candidate
from router.wire.llmd import STARTING
from shared.errors import (
    ServiceError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamStarting,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)

__all__ = ["Retries", "Unspoken", "WaitingRoom"]

_PAUSE = 0.05
"""Seconds before a second try at a deployment that failed without a word of when to come back."""
_PATIENCE = 2.0
"""The most seconds that a `Retry-After` may ask for to be waited for."""
_FIRST, _LONGEST, _LEAST = 1.0, 5.0, 0.25
"""Seconds between two questions to a cluster that is starting: at first, at most, and at least before the wait ends."""


class Unspoken(UpstreamUnavailable):
    """The router cannot tell this backend the request, now or later."""


class WaitingRoom:
    """Holds the requests of this process that only a cluster can answer that is starting: none for ever, not too many.

    Args:
        seconds: How long each may wait; 0: nobody waits.
        most: How many may wait at a time.
        told: Told of whoever comes (1) and goes (-1), and for which backend.
    """

    def __init__(
        self,
        seconds: float = 0.0,
        most: int = 0,
        told: Callable[[str, int], object] = lambda _backend, _change: None,
    ) -> None:
        self.seconds = seconds
        self._room = most
        self._told = told

    def enter(self, backend: str) -> None:
        """Let a request in; it is to `leave` whatever happens.

        Raises:
            UpstreamStarting: There is no room.
        """
        if self._room <= 0:
            message = "The model is starting, and too many requests wait for it already."
            raise UpstreamStarting(message, retry_after=STARTING)
        self._room -= 1
        self._told(backend, 1)

    def leave(self, backend: str) -> None:
        """Let a request out."""
        self._room += 1
        self._told(backend, -1)


class Retries:
    """Whom one request may ask again, and when.

    Somebody else would be better, so this is for when there is nobody else left.

    Args:
        health: What is known of the deployments.
        room: Where the request may wait for a cluster to start.
        clock: As `time.perf_counter`.
        ends: When the request ends.
        waits: Whether it may wait.
    """

    __slots__ = (
        "_again",
        "_clock",
        "_cold",
        "_ends",
        "_health",
        "_pause",
        "_room",
        "_twice",
        "_waited",
        "_waits",
        "until",
    )

    def __init__(
        self, health: HealthBoard, room: WaitingRoom, clock: Callable[[], float], ends: float, *, waits: bool
    ) -> None:
        self._health = health
        self._room = room
        self._clock = clock
        self._ends = ends
        self._waits = waits and room.seconds > 0
        self._again: list[tuple[float, Candidate, ServiceError]] = []
        """Who may be tried a second time, from when on, after what."""
        self._twice: set[str] = set()
        """Deployments that have had their second try."""
        self._cold: list[tuple[Candidate, bool]] = []
        """Who is starting, and whether it was asked."""
        self._pause = _FIRST
        self._waited = ""
        """The backend that is waited for."""
        self.until = 0.0
        """When the wait for them ends; 0 while there is none."""

    # --- what happened ------------------------------------------------------------------------

    def defer(self, candidate: Candidate) -> None:
        """Note somebody who is known to be starting, and is asked only where nobody else is left."""
        self._cold.append((candidate, False))

    def due(self) -> Candidate | None:
        """Return whoever was deferred, where it is time to see whether it has started; None where it is not."""
        if self._cold and not self.until and self._health.look_again(self._cold[-1][0].deployment):
            return self._cold.pop()[0]
        return None

    def forget(self, too_small: int) -> None:
        """Wait for nobody whose context is no larger than one that the prompt does not fit."""
        self._cold = [cold for cold in self._cold if (cold[0].model.context_length or too_small + 1) > too_small]

    def note(self, candidate: Candidate, error: ServiceError) -> None:
        """Note a failure that may have passed a moment later.

        A backend that was silent, or that asks for a long rest, is no better the next moment. A cluster that is
        starting says all kinds of things until it has started.
        """
        wait = error.retry_after
        if isinstance(error, Unspoken):
            return
        starts = isinstance(error, UpstreamStarting) and candidate.deployment.backend.tier == "cluster"
        if starts or self.until:
            known = any(candidate is cold for cold, _ in self._cold)
            if self._waits and not (known or isinstance(error, UpstreamUnauthorized)):
                self._cold.append((candidate, True))
            return
        if isinstance(error, UpstreamUnavailable):
            wait = _PAUSE if wait is None else wait
        elif not isinstance(error, (UpstreamRateLimited, UpstreamOverloaded)):
            return
        if wait is not None and wait <= _PATIENCE:
            self._again.append((self._clock() + wait, candidate, error))

    # --- what follows -------------------------------------------------------------------------

    async def next(self, left: int) -> Candidate | None:
        """Return who is to be asked again, once the time for that has come; None where nobody is.

        Args:
            left: How many attempts there are left. While the request waits for a cluster, none is needed.

        Raises:
            UpstreamStarting: Too many requests wait already.
        """
        return await self._second(left) or await self._started(left)

    async def _second(self, left: int) -> Candidate | None:
        while self._again and left > 0:
            when, candidate, error = self._again.pop(0)
            state = self._health.state(candidate.deployment.id)
            open_breaker = state is not None and not state.available and not isinstance(error, UpstreamRateLimited)
            if candidate.deployment.id in self._twice or open_breaker or when >= self._ends:
                continue
            self._twice.add(candidate.deployment.id)
            await asyncio.sleep(max(0.0, when - self._clock()))
            return candidate
        return None

    async def _started(self, left: int) -> Candidate | None:
        """Return who was starting: to be asked is what wakes a cluster that has scaled to zero."""
        if not self._cold:
            return None
        candidate, asked = self._cold.pop(0)
        if not self._waits:
            return None if left <= 0 else candidate
        now = self._clock()
        if not self.until:
            self._waited = candidate.deployment.backend.name
            self._room.enter(self._waited)
            self.until = min(self._ends, now + self._room.seconds)
        if not asked:
            return candidate
        # The last question comes just before the end.
        pause = min(self._pause, (self.until - now) / 2)
        if pause < _LEAST:
            return None
        self._pause = min(_LONGEST, 2 * self._pause)
        await asyncio.sleep(pause)
        return candidate

    def leave(self) -> None:
        """Wait no longer; calling it again does nothing."""
        if self.until:
            self.until = 0.0
            self._room.leave(self._waited)

    def verdict(self, last: ServiceError) -> ServiceError:
        """Return what the last failure means to a request that has waited: silence to the end is a start that lasts."""
        if not isinstance(last, UpstreamTimeout):
            return last
        return UpstreamStarting("The model is still starting.", retry_after=STARTING)
