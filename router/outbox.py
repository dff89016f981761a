"""The outbox: what connections write in one turn of the event loop goes out together, at its end.

A write to a socket wakes whoever reads it, which costs more than the write itself where that is
another core. Written one right after the other, most find their reader awake already.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["Outbox"]


_FEW = 3


class Sink(Protocol):
    """What bytes can be written to: a transport."""

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them until they can be sent."""
        ...

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        ...


class Outbox:
    """Collects writes for the end of the event loop's present turn.

    With few exchanges open there is nothing to collect, and waiting would only cost time: then
    bytes go out at once.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.open = 0
        """Exchanges with clients that are under way."""
        self._call_soon = loop.call_soon
        self._waiting: list[tuple[Sink, bytes]] = []

    def write(self, sink: Sink, data: bytes) -> None:
        """Send bytes once everything else that is ready has had its turn; one sink's bytes stay in order."""
        waiting = self._waiting
        if not waiting:
            if self.open < _FEW:
                # One that broke is closed a turn before its protocol is told, and uvloop refuses writes to it.
                if not sink.is_closing():
                    sink.write(data)
                return
            self._call_soon(self.flush)
        waiting.append((sink, data))

    def flush(self) -> None:
        """Send what has been collected, now."""
        waiting, self._waiting = self._waiting, []
        for sink, data in waiting:
            if not sink.is_closing():
                sink.write(data)
