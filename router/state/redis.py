"""State in Redis, under a budget in milliseconds; a Redis that is away costs nothing.

Not even its client is loaded before something listens there: it takes megabytes and a tenth of the start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from router.limits.leases import Ask, Grant
from router.limits.script import LEASE, read_reply, script_arguments, script_keys

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

__all__ = ["RedisAddress", "RedisStore", "redis_address"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
_FAULTS: tuple[type[Exception], ...] = (OSError, asyncio.TimeoutError, ValueError)
"""What an attempt to connect may raise before the client is loaded."""
_PATIENCE = 1.0
_LEASE_BUDGET = 0.5
_NUMBERS = {"db", "health_check_interval", "max_connections", "protocol", "socket_connect_timeout", "socket_timeout"}
"""What a URL may ask of the client and is a number."""
_CONNECTIONS = 64
"""Calls at a time; more would make more connections, not more answers."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis listens.

    Attributes:
        host: Its host; empty where it is a socket file.
        port: Its TCP port.
        path: Its socket file; empty where it is a host.
    """

    host: str
    port: int = 6379
    path: str = ""


def redis_address(url: str) -> RedisAddress:
    """Return where a URL points, read as redis-py reads it.

    Args:
        url: `redis://`, `rediss://` or `unix://`.

    Raises:
        ValueError: It is no such URL; the message may hold a part of it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("not redis://, rediss:// or unix://")
    asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
    for name in _NUMBERS & asked.keys():
        float(asked[name])
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("no socket file")
        return RedisAddress("", path=unquote(parts.path))
    int(unquote(parts.path).replace("/", "") or 0)
    return RedisAddress(unquote(parts.hostname or "localhost"), parts.port or 6379)


class RedisStore:
    """A `StateStore` and a `LeaseStore` in Redis (or Valkey).

    A call that fails or exceeds its budget opens the breaker: for `cooldown` seconds nothing is
    sent, then one ping in the background decides. Answers thus wait for a sick Redis once, and
    for no longer than the budget. A Redis that answers, if only to refuse (out of memory,
    read-only), is not away.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        budget: Seconds that one call may take.
        cooldown: Seconds between two pings of a Redis that is away.
    """

    _lease: AsyncScript
    _client: Redis
    """Made once there is somebody to talk to: before `available` has ever been true, only if `_made`."""

    def __init__(self, url: str, budget: float = 0.05, cooldown: float = 0.5) -> None:
        self._url = url
        self._address = redis_address(url)
        self._budget = budget
        self._cooldown = cooldown
        self._made = False
        self._faults = _FAULTS
        self._refusing: tuple[type[Exception], ...] = ()
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
        """Try once, within a second and what loading the client takes; return whether Redis is there; never raises."""
        try:
            await self._ping()
        except ImportError as error:
            self._unusable(error)
            return False
        except self._faults as error:
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
        if self._made:
            await self._client.aclose()

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None where there is none or Redis is away."""
        value = await self._bounded(lambda: self._client.get(key))
        return value if isinstance(value, bytes) else None

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Keep a value for `ttl` seconds, if Redis is there."""
        await self._bounded(lambda: self._client.set(key, value, px=max(1, int(ttl * 1000))))

    async def put_if_absent(self, key: str, value: bytes, ttl: float) -> bool | None:
        """Keep a value where there is none; say whether that was so, None where Redis is away."""

        async def put() -> bool:
            return await self._client.set(key, value, px=max(1, int(ttl * 1000)), nx=True) is not None

        return await self._bounded(put)

    async def delete(self, key: str) -> None:
        """Forget a value, if Redis is there."""
        await self._bounded(lambda: self._client.delete(key))

    async def lease(self, holder: str, asks: Sequence[Ask], ttl: float) -> list[Grant] | None:
        """Book what a holder has spent, and renew its leases; None where Redis is away."""
        keys, arguments = script_keys(asks), script_arguments(holder, asks, ttl)
        # No request waits for this, so it may take longer than what a request may wait for.
        reply = await self._bounded(lambda: self._lease(keys, arguments), max(self._budget, _LEASE_BUDGET))
        return None if reply is None else read_reply(reply)

    async def _bounded(self, call: Callable[[], Awaitable[T]], budget: float | None = None) -> T | None:
        if not self._available:
            return None
        try:
            return await asyncio.wait_for(self._in_slot(call), self._budget if budget is None else budget)
        except self._refusing as error:
            self._refused(error)
        except self._faults as error:
            self._lost(error)
        return None

    async def _in_slot(self, call: Callable[[], Awaitable[T]]) -> T:
        async with self._slots:
            return await call()

    async def _ping(self) -> None:
        if not self._made:
            await asyncio.wait_for(_knock(self._address), _PATIENCE)
            # In a thread: loading takes a fifth of a second, and requests go on meanwhile.
            self._load(*await asyncio.to_thread(_make_client, self._url))
        await asyncio.wait_for(self._client.ping(), _PATIENCE)

    def _load(self, client: Redis, fault: type[Exception], refusal: type[Exception]) -> None:
        self._client, self._made = client, True
        self._lease = client.register_script(LEASE)
        self._faults, self._refusing = (fault, *_FAULTS), (refusal,)

    def _unusable(self, error: ImportError) -> None:
        """Say once what is missing; it will not come while this process runs, so nothing is tried again."""
        self._known = True
        _log.warning(
            "redis answers, but its client is missing, so the cache is off: install inference-router[redis]",
            extra={"fields": {"error": str(error)}},
        )

    def _refused(self, error: Exception) -> None:
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
            _log.warning(
                "redis is away; the cache is off and limits are split until it is back",
                extra={"fields": {"error": kind}},
            )
        self._available, self._known = False, True
        if not self._closed and (self._pinger is None or self._pinger.done()):
            self._pinger = asyncio.get_running_loop().create_task(self._wait_for_redis())

    async def _wait_for_redis(self) -> None:
        started = time.monotonic()
        while not self._available:
            # The pause grows to five seconds, so that a Redis that never comes costs next to nothing.
            await asyncio.sleep(min(5.0, max(self._cooldown, (time.monotonic() - started) / 10)))
            try:
                if self._made:
                    # Idle connections from before may be dead without knowing it.
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                await self._ping()
            except ImportError as error:
                self._unusable(error)
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, Redis is not back yet
                _log.debug("redis is still away", exc_info=error)
                continue
            self._found()


async def _knock(address: RedisAddress) -> None:
    """Connect and hang up.

    Raises:
        OSError: Nobody listens.
    """
    if address.path:
        _, writer = await asyncio.open_unix_connection(address.path)
    else:
        _, writer = await asyncio.open_connection(address.host, address.port)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def _make_client(url: str) -> tuple[Redis, type[Exception], type[Exception]]:
    """Return a client that is not connected yet, the error of its every failure, and that of a Redis that refuses.

    Raises:
        ImportError: The package is not installed.
    """
    from redis.asyncio import Redis  # noqa: PLC0415 - see the module's own words
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.exceptions import RedisError, ResponseError  # noqa: PLC0415

    client: Redis = Redis.from_url(
        url,
        socket_timeout=5.0,
        socket_connect_timeout=2.0,
        # The client's own retries would turn one slow call into many.
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        max_connections=2 * _CONNECTIONS,
    )
    return client, RedisError, ResponseError
