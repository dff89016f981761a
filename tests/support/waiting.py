"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


async def eventually(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 20) -> None:
    """Wait until a condition holds.

    Args:
        condition: What is to hold; it is asked again and again.
        seconds: After how long the wait has failed.
    """
    until = time.monotonic() + seconds
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        if time.monotonic() > until:
            raise AssertionError("the condition never held")
        await asyncio.sleep(0.005)
