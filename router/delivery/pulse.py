"""The pulse: a sign of life for every client of a stream that has long heard nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

from router.interfaces import Headers

__all__ = ["Audience", "Pulse", "Vigil"]

_TICK = 1.0
"""Seconds between two looks at the open streams, at most."""
_PATIENCE = 120.0
"""Seconds that a client may take nothing of a stream that is there for it."""


class Audience(Protocol):
    """The connection that a stream goes to, as the pulse sees it."""

    said: bool
    """Set whenever something is sent; the pulse takes it back."""

    @property
    def stuck(self) -> bool:
        """Whether something waits for the client to read, and nobody else watches for how long."""
        ...

    def ping(self, data: bytes, head: Callable[[], Headers]) -> None:
        """Send an event that says nothing, after the head if that is not out yet.

        Nothing is sent where the client reads too slowly, is gone, or has the whole answer.
        """
        ...

    def give_up(self) -> None:
        """Stop: the client reads nothing."""
        ...


class Vigil:
    """One stream that is watched over."""

    __slots__ = ("audience", "head", "ping", "silent")

    def __init__(self, audience: Audience, ping: bytes, head: Callable[[], Headers]) -> None:
        self.audience = audience
        self.ping = ping
        self.head = head
        self.silent = 0
        """Looks in a row at which nothing had been sent."""


class Pulse:
    """Looks at all open streams at once, while there are any.

    A timer for each stream or piece would cost more than most pieces do: one look a second tells who was silent
    for how many of them, and a stream in motion pays with one assignment for each piece.

    Args:
        loop: The event loop.
        seconds: The silence after which a client gets a sign of life; 0: never.
        patience: Seconds that a client may take nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, patience: float = _PATIENCE) -> None:
        self._loop = loop
        self._tick = min(_TICK, seconds / 4) if seconds else _TICK
        self._ticks = math.ceil(seconds / self._tick) if seconds else 0
        self._patience = math.ceil(patience / self._tick)
        self._open: set[Vigil] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, audience: Audience, ping: bytes, head: Callable[[], Headers]) -> Vigil:
        """Watch over a stream.

        Args:
            audience: Where it goes.
            ping: The event that says nothing; empty: none is sent.
            head: The headers known so far, for a stream whose backend is silent before its first word.
        """
        vigil = Vigil(audience, ping, head)
        self._open.add(vigil)
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick, self._look)
        return vigil

    def leave(self, vigil: Vigil) -> None:
        """Watch no longer."""
        self._open.discard(vigil)

    def close(self) -> None:
        """Watch over nobody any more."""
        self._open.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._tick, self._look) if self._open else None
        for vigil in tuple(self._open):
            audience = vigil.audience
            if audience.said:
                audience.said, vigil.silent = False, 0
                continue
            vigil.silent += 1
            if audience.stuck:
                if vigil.silent >= self._patience:
                    audience.give_up()
            elif self._ticks and vigil.ping and vigil.silent >= self._ticks:
                audience.ping(vigil.ping, vigil.head)
