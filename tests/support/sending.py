"""Requests through a `Transport`, as short as a test wants them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from router.interfaces import Exchange, Route, Transport

__all__ = ["send", "soon", "whole"]


def soon() -> float:
    """Return a limit that a test should not reach."""
    return time.perf_counter() + 10


async def send(
    transport: Transport,
    url: str,
    body: bytes = b"{}",
    headers: Mapping[str, str] | None = None,
    connect: float = 5,
    seconds: float = 10,
) -> Exchange:
    """Send a request to a URL."""
    return await transport.send(
        Route(url, {"x-fixed": "1"}), headers or {}, (body,), connect, time.perf_counter() + seconds
    )


async def whole(exchange: Exchange) -> bytes:
    """Return the rest of a body."""
    parts = []
    while (part := await exchange.read(soon())) is not None:
        parts.append(part)
    return b"".join(parts)
