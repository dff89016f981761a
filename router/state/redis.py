"""State in Redis, under a budget in milliseconds; a Redis that is away costs nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

__all__ = ["RedisStore"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
_FAULTS = (RedisError, OSError, asyncio.TimeoutError, ValueError)
_CONNECTIONS = 64
"""Calls at a time; more would make more connections, not more answers."""


class RedisStore:
    """A `StateStore` in Redis (or Valkey).

    A call that fails or exceeds its budget opens the breaker: for `cooldown` seconds nothing is
    sent, then one ping in the background decides. Answers thus wait for a sick Redis once, and
    for no longer than the budget. A Redis that answers, if only to refuse (out of memory,
    read-only), is not away.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        budget: Seconds that one call may take.
        cooldown: Seconds between two pings of a Redis that is away.
    """

    def __init__(self, url: str, budget: float = 0.05, cooldown: float = 0.5) -> None:
        self._budget = budget
        self._cooldown = cooldown
        # The client's own retries would turn one slow call into many.
        self._client: Redis = Redis.from_url(
            url,
            socket_timeout=5.0,
            socket_connect_timeout=2.0,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
            max_connections=2 * _CONNECTIONS,
        )
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._refusals: set[str] = set()
        self._available = False
        self._known = False
        self._pinger: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def available(self) -> bool:
        """Whether Redis answered last time."""
        return self._available

    async def connect(self) -> bool:
        """Try once, within a second, and return whether Redis is there; never raises."""
        try:
            await asyncio.wait_for(self._ping(), 1.0)
        except _FAULTS as error:
            self._lost(error)
            return False
        self._found()
        return True

    async def close(self) -> None:
        """Close every connection."""
        self._closed, self._available = True, False
        if self._pinger is not None:
            self._pinger.cancel()
            await asyncio.wait((self._pinger,))
        await self._client.aclose()

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None where there is none or Redis is away."""
        value = await self._bounded(lambda: self._client.get(key))
        return value if isinstance(value, bytes) else None

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Keep a value for `ttl` seconds, if Redis is there."""
        await self._bounded(lambda: self._client.set(key, value, px=max(1, int(ttl * 1000))))

    async def _bounded(self, call: Callable[[], Awaitable[T]]) -> T | None:
        if not self._available:
            return None
        try:
            return await asyncio.wait_for(self._in_slot(call), self._budget)
        except ResponseError as error:
            self._refused(error)
        except _FAULTS as error:
            self._lost(error)
        return None

    async def _in_slot(self, call: Callable[[], Awaitable[T]]) -> T:
        async with self._slots:
            return await call()

    async def _ping(self) -> None:
        await self._client.ping()

    def _refused(self, error: ResponseError) -> None:
        kind = type(error).__name__
        if kind not in self._refusals:
            self._refusals.add(kind)
            _log.warning("redis refuses a command", extra={"fields": {"error": kind, "detail": str(error)[:200]}})

    def _found(self) -> None:
        if self._known and not self._available:
            _log.info("redis is back")
        self._available = self._known = True

    def _lost(self, error: BaseException) -> None:
        if self._available or not self._known:
            kind = type(error).__name__
            _log.warning("redis is away; the cache is off until it is back", extra={"fields": {"error": kind}})
        self._available, self._known = False, True
        if not self._closed and (self._pinger is None or self._pinger.done()):
            self._pinger = asyncio.get_running_loop().create_task(self._wait_for_redis())

    async def _wait_for_redis(self) -> None:
        started = time.monotonic()
        while not self._available:
            # The pause grows to five seconds, so that a Redis that never comes costs next to nothing.
            await asyncio.sleep(min(5.0, max(self._cooldown, (time.monotonic() - started) / 10)))
            try:
                # Idle connections from before may be dead without knowing it.
                await self._client.connection_pool.disconnect(inuse_connections=False)
                await asyncio.wait_for(self._ping(), 1.0)
            except Exception as error:  # noqa: BLE001 - whatever it is, Redis is not back yet
                _log.debug("redis is still away", exc_info=error)
                continue
            self._found()
