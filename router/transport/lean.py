"""A lean HTTP/1.1 client on asyncio and httptools: pooled connections, callbacks, no task of its own.

A connection goes back to its pool only when its answer ended as its framing said and nothing came
after it; in any doubt it is closed. A request on a kept connection that the backend had closed
meanwhile is sent once more, on a fresh one, as long as no byte of an answer has come.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio

from router.transport.connection import Connection
from shared.errors import UpstreamTimeout, UpstreamUnavailable

__all__ = ["LeanExchange", "LeanTransport"]

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL taken apart once."""

    scheme: str
    host: str
    port: int
    line: bytes
    """The request line and the `Host` header."""


class _Pool:
    """The connections to one origin.

    Args:
        target: Any URL of the origin.
        tls: Used where the scheme is https.
        max_connections: Bound on connections in use.
        idle_seconds: How long an unused connection is kept.
    """

    def __init__(self, target: _Target, tls: ssl.SSLContext, max_connections: int, idle_seconds: float) -> None:
        self._target = target
        self._tls = tls if target.scheme == "https" else None
        self._idle_seconds = idle_seconds
        self._idle: deque[tuple[float, Connection]] = deque()
        self.slots = asyncio.Semaphore(max_connections)

    def idle(self) -> Connection | None:
        """Return the connection used last that is still good, or None."""
        oldest = asyncio.get_running_loop().time() - self._idle_seconds
        while self._idle and (self._idle[0][0] < oldest or self._idle[0][1].closed):
            self._idle.popleft()[1].abort()
        while self._idle:
            _, connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def connect(self) -> Connection:
        """Open a connection.

        Raises:
            UpstreamUnavailable: The backend cannot be reached, or its certificate is not trusted.
        """
        target = self._target
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection,
                target.host,
                target.port,
                ssl=self._tls,
                server_hostname=target.host if self._tls else None,
                happy_eyeballs_delay=0.25,
            )
        except (OSError, ValueError) as error:
            raise UpstreamUnavailable("The backend cannot be reached.") from error
        return connection

    def release(self, connection: Connection | None) -> None:
        """Take a connection back, and its slot; one whose framing is in any doubt is closed."""
        self.slots.release()
        if connection is None:
            return
        if connection.reusable:
            self._idle.append((asyncio.get_running_loop().time(), connection))
        else:
            connection.abort()

    def close(self) -> None:
        """Close the idle connections; the others end with their exchanges."""
        while self._idle:
            self._idle.pop()[1].abort()


class LeanExchange:
    """One answer: its head, and its body as it comes. `close()` must be called."""

    def __init__(self, connection: Connection, pool: _Pool) -> None:
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers
        self._connection = connection
        self._pool = pool
        self._open = True

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes, uncompressed.

        Raises:
            UpstreamUnavailable: It ended before its framing said so, or cannot be read.
        """
        unpack = _unpacker(self.headers.get("content-encoding", ""))
        connection = self._connection
        while (data := await connection.read()) is not None:
            if unpack is None:
                yield data
            elif plain := _unpacked(unpack, data):
                yield plain
        if unpack is not None and not unpack.eof:
            raise UpstreamUnavailable("The backend's answer is cut off within its compression.")

    async def close(self) -> None:
        """Give the connection back if the whole answer has been read, else close it at once."""
        if self._open:
            self._open = False
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
        tls: Verifies certificates; None for the system's trust.
    """

    def __init__(
        self, max_connections: int = 1000, idle_seconds: float = 30.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._max_connections = max_connections
        self._idle_seconds = idle_seconds
        self._tls = tls or ssl.create_default_context()
        self._targets: dict[str, _Target] = {}
        self._pools: dict[tuple[str, str, int], _Pool] = {}

    async def send(self, url: str, body: bytes, headers: Mapping[str, str], connect_timeout: float) -> LeanExchange:
        """Send a POST and return the answer once its head is there; see `Transport.send`."""
        target = self._targets.get(url) or self._learn(url)
        message = _head(target, headers, len(body)) + body
        pool = self._pools[target.scheme, target.host, target.port]
        connection: Connection | None = None
        try:
            with anyio.fail_after(connect_timeout):
                await pool.slots.acquire()
        except TimeoutError as error:
            raise UpstreamTimeout("No connection to the backend became free in time.") from error
        try:
            connection = pool.idle()
            if connection is not None and not await connection.ask(message):
                connection.abort()
                connection = None
            if connection is None:
                connection = await self._connect(pool, connect_timeout)
                if not await connection.ask(message):
                    raise UpstreamUnavailable("The backend closed the connection without an answer.")
        except BaseException:
            if connection is not None:
                connection.abort()
            pool.release(None)
            raise
        return LeanExchange(connection, pool)

    async def _connect(self, pool: _Pool, timeout: float) -> Connection:
        try:
            with anyio.fail_after(timeout):
                return await pool.connect()
        except TimeoutError as error:
            raise UpstreamTimeout("The backend did not accept a connection in time.") from error

    def _learn(self, url: str) -> _Target:
        parts = urlsplit(url)
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
        target = self._targets[url] = _Target(parts.scheme, host, port, line)
        key = (target.scheme, target.host, target.port)
        if key not in self._pools:
            self._pools[key] = _Pool(target, self._tls, self._max_connections, self._idle_seconds)
        return target

    async def close(self) -> None:
        """Close every idle connection."""
        for pool in self._pools.values():
            pool.close()


def _head(target: _Target, headers: Mapping[str, str], length: int) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise UpstreamUnavailable("A header for the backend holds a line break and was not sent.")
    return target.line + lines.encode("latin-1") + b"content-length: %d\r\n\r\n" % length
