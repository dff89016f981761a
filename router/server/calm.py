"""CalmServer: uvicorn's server, waking once a second where nothing happens, not ten times."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import uvicorn

__all__ = ["CalmServer"]

_TICK = 1.0
"""Seconds between two looks at the clock, for the `date` header."""


class CalmServer(uvicorn.Server):
    """uvicorn's server; its end is an event that wakes it, not a flag that it looks at again and again."""

    _told = False
    _loop: asyncio.AbstractEventLoop | None = None
    _wake: asyncio.Event

    @property
    def should_exit(self) -> bool:
        """Whether the server is to end; setting it, from a signal or another thread too, wakes the server."""
        return self._told

    @should_exit.setter
    def should_exit(self, told: bool) -> None:
        self._told = told
        if told and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    async def main_loop(self) -> None:
        """Serve until told to end."""
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            while not await self.on_tick(0):
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _TICK)
        finally:
            self._loop = None
