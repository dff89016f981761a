"""A lean HTTP/1.1 client on asyncio and httptools: pooled connections, callbacks, no task of its own.

A connection goes back to its pool only when its answer ended as its framing said and nothing came
after it; in any doubt it is closed. A request on a kept connection that the backend had closed
meanwhile is sent once more, on a fresh one, as long as no byte of an answer has come.
"""

from __future__ import annotations

import asyncio
import ssl
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from router.interfaces import Parts, Route
from router.outbox import Outbox
from router.transport.connection import Connection
from shared.errors import UpstreamTimeout, UpstreamUnavailable

__all__ = ["LeanExchange", "LeanTransport"]

_PORTS = {"http": 80, "https": 443}
_LINGER = 1.0
"""Seconds in which the framing of an answer that has been read may still end."""
_clock = time.perf_counter
T = TypeVar("T")


class _Pool:
    """The connections to one origin.

    Args:
        host: A name or an address.
        port: Its port.
        tls: Verifies the origin's certificate; None for plain HTTP.
        max_connections: Bound on connections in use.
        idle_seconds: How long an unused connection is kept.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        max_connections: int,
        idle_seconds: float,
        outbox: Outbox,
    ) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._idle_seconds = idle_seconds
        self._idle: deque[tuple[float, Connection]] = deque()
        self._free = max_connections
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._outbox = outbox

    def take(self) -> bool:
        """Take one of the pool's slots if one is free."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    async def take_turn(self, seconds: float) -> None:
        """Wait for one of the pool's slots.

        Raises:
            UpstreamTimeout: None became free in time.
        """
        turn = self._loop.create_future()
        self._waiting.append(turn)
        timer = self._loop.call_later(seconds, _expire, turn)
        try:
            await turn
        except asyncio.TimeoutError as error:
            raise UpstreamTimeout("No connection to the backend became free in time.") from error
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_slot()  # it was ours already
            raise
        finally:
            timer.cancel()

    def _give_slot(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def idle(self) -> Connection | None:
        """Return the connection used last that is still good, or None."""
        idle = self._idle
        if not idle:
            return None
        oldest = _clock() - self._idle_seconds
        while idle and (idle[0][0] < oldest or idle[0][1].closed):
            idle.popleft()[1].abort()
        while idle:
            _, connection = idle.pop()
            if not connection.closed:
                return connection
        return None

    async def connect(self, seconds: float) -> Connection:
        """Open a connection.

        Raises:
            UpstreamUnavailable: The backend cannot be reached, or its certificate is not trusted.
            UpstreamTimeout: It did not accept in time.
        """
        opening = self._loop.create_connection(
            lambda: Connection(self._loop, self._outbox),
            self._host,
            self._port,
            ssl=self._tls,
            server_hostname=self._host if self._tls else None,
        )
        try:
            _, connection = await asyncio.wait_for(opening, seconds)
        except asyncio.TimeoutError as error:
            raise UpstreamTimeout("The backend did not accept a connection in time.") from error
        except (OSError, ValueError) as error:
            raise UpstreamUnavailable("The backend cannot be reached.") from error
        return connection

    def release(self, connection: Connection | None) -> None:
        """Take a connection back, and its slot; one whose framing is in any doubt is closed."""
        self._give_slot()
        if connection is None:
            return
        if connection.reusable:
            self._idle.append((_clock(), connection))
        else:
            connection.abort()

    def close(self) -> None:
        """Close the idle connections; the others end with their exchanges."""
        while self._idle:
            self._idle.pop()[1].abort()


def _expire(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(asyncio.TimeoutError())


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A route taken apart once: its pool, and the head of its requests up to what differs."""

    pool: _Pool
    head: bytes


class LeanExchange:
    """One answer: its head, and its body as it comes. `close()` must be called."""

    def __init__(self, connection: Connection, pool: _Pool) -> None:
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers
        self._connection = connection
        self._pool = pool
        self._open = True
        encoding = connection.headers.get("content-encoding")
        self._unpack = None if encoding is None else _unpacker(encoding)

    async def read(self, until: float) -> bytes | None:
        """Return what has come of the body; see `Exchange.read`."""
        if self._unpack is None:
            return await self._connection.read(until)
        while (data := await self._connection.read(until)) is not None:
            if plain := _unpacked(self._unpack, data):
                return plain
        if not self._unpack.eof:
            raise UpstreamUnavailable("The backend's answer is cut off within its compression.")
        return None

    async def pump(self, take: Callable[[bytes], bool], idle: float, ends: float) -> bool:
        """Hand on the body as it comes; see `Exchange.pump`."""
        if self._unpack is None:
            return await self._connection.pump(take, idle, ends)
        while (data := await self.read(min(_clock() + idle, ends))) is not None:
            if not take(data):
                return False
        return True

    async def close(self, *, complete: bool = False) -> None:
        """Give the connection back, or close it; see `Exchange.close`."""
        if not self._open:
            return
        self._open = False
        if complete:
            self._connection.when_ended(lambda: self._pool.release(self._connection), _LINGER)
        else:
            self._pool.release(self._connection)


def _unpacker(encoding: str) -> zlib._Decompress | None:
    kind = encoding.strip().lower()
    if kind in ("", "identity"):
        return None
    if kind in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    raise UpstreamUnavailable("The backend's answer is compressed in a way that cannot be read.")


def _unpacked(unpack: zlib._Decompress, data: bytes) -> bytes:
    try:
        return unpack.decompress(data)
    except zlib.error as error:
        raise UpstreamUnavailable("The backend's answer is compressed in a way that cannot be read.") from error


class LeanTransport:
    """Sends requests over pooled connections, one pool for each origin.

    Args:
        max_connections: Bound of each pool.
        idle_seconds: How long an unused connection is kept.
        tls: Makes what verifies certificates, when a backend first needs it; it costs tens of milliseconds.
    """

    def __init__(
        self,
        max_connections: int = 10_000,
        idle_seconds: float = 30.0,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        outbox: Outbox | None = None,
    ) -> None:
        self._outbox = outbox or Outbox(asyncio.get_running_loop())
        self._max_connections = max_connections
        self._idle_seconds = idle_seconds
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._pools: dict[tuple[str, str, int], _Pool] = {}

    async def send(
        self, route: Route, headers: Mapping[str, str], body: Parts, connect: float, until: float
    ) -> LeanExchange:
        """Send a POST and return the answer once its head is there; see `Transport.send`."""
        prepared = route.prepared
        if not isinstance(prepared, _Prepared):
            prepared = route.prepared = self._prepare(route)
        head = b"%b%bcontent-length: %d\r\n\r\n" % (prepared.head, _lines(headers), sum(map(len, body)))
        pool = prepared.pool
        if not pool.take():
            await _within(pool.take_turn, connect, until)
        connection: Connection | None = None
        try:
            connection = pool.idle()
            if connection is None or not connection.send(head, body) or not await connection.answered(until):
                if connection is not None:
                    connection.abort()
                    connection = None
                connection = await _within(pool.connect, connect, until)
                if not connection.send(head, body) or not await connection.answered(until):
                    raise UpstreamUnavailable("The backend closed the connection without an answer.")
            return LeanExchange(connection, pool)
        except BaseException:
            if connection is not None:
                connection.abort()
            pool.release(None)
            raise

    def _prepare(self, route: Route) -> _Prepared:
        parts = urlsplit(route.url)
        try:
            port = parts.port or _PORTS[parts.scheme]
            host = parts.hostname or ""
            name = f"[{host}]" if ":" in host else host.encode("idna").decode()
            authority = name if port == _PORTS[parts.scheme] else f"{name}:{port}"
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            line = f"POST {path} HTTP/1.1\r\nhost: {authority}\r\n".encode("ascii")
        except (KeyError, ValueError) as error:
            raise UpstreamUnavailable("The backend's address is not valid.") from error
        if not host or any(byte <= 0x20 or byte == 0x7F for byte in path.encode()):
            raise UpstreamUnavailable("The backend's address is not valid.")
        origin = (parts.scheme, host, port)
        pool = self._pools.get(origin)
        if pool is None:
            if parts.scheme == "https" and self._tls is None:
                self._tls = self._make_tls()
            tls = self._tls if parts.scheme == "https" else None
            pool = self._pools[origin] = _Pool(host, port, tls, self._max_connections, self._idle_seconds, self._outbox)
        return _Prepared(pool, line + _lines(route.headers))

    async def close(self) -> None:
        """Close every idle connection."""
        for pool in self._pools.values():
            pool.close()


async def _within(wait: Callable[[float], Awaitable[T]], seconds: float, until: float) -> T:
    """Wait for so many seconds, or until a moment, whichever comes first; each limit fires as itself."""
    left = until - _clock()
    if seconds <= left:
        return await wait(seconds)
    try:
        return await wait(max(0.0, left))
    except UpstreamTimeout as error:
        raise TimeoutError from error


def _lines(headers: Mapping[str, str]) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers) or b"\0" in lines:
        raise UpstreamUnavailable("A header for the backend holds a line break and was not sent.")
    return lines
