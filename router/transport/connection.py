"""One HTTP/1.1 connection to a backend: bytes in, an answer's head and body out."""

from __future__ import annotations

import asyncio
from collections import deque

import httptools

from shared.errors import UpstreamUnavailable

__all__ = ["Connection"]

HEAD_LIMIT = 64 * 1024
"""Largest head of an answer, in bytes."""
HIGH_WATER = 256 * 1024
"""Bytes of a body that wait for their reader before the backend is held back."""


class Connection(asyncio.Protocol):
    """An asyncio protocol that carries one exchange at a time."""

    def __init__(self) -> None:
        self.closed = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._busy = False
        self._begin()

    def _begin(self) -> None:
        """Forget the last answer."""
        self._parser = httptools.HttpResponseParser(self)
        self.status, self.headers = 0, {}
        self._body: deque[bytes] = deque()
        self._buffered = 0
        self._head_bytes = 0
        self._any_byte = self._head_done = self._done = False
        self._until_close = self._kept_alive = self._reading_paused = False
        self._error: str | None = None

    @property
    def reusable(self) -> bool:
        """Whether the last answer was read to its proper end and nothing else is under way."""
        return (
            not self.closed
            and self._done
            and self._kept_alive
            and not self._body
            and self._transport is not None
            and not self._transport.is_closing()
            and self._transport.get_write_buffer_size() == 0
        )

    # --- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Feed the parser; bytes that answer no request end the connection."""
        if self._done or not self._busy:
            self._fail("The backend sent bytes that answer no request.")
            return
        self._any_byte = True
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("The backend switched to another protocol.")
        except httptools.HttpParserError:
            self._fail("The backend's answer is not valid HTTP.")
        if not self._head_done and self._head_bytes > HEAD_LIMIT:
            self._fail("The backend's answer has too large a head.")
        self._wake()

    def eof_received(self) -> bool:
        """Let the transport close: a backend that says no more gets no more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is under way; an answer of undeclared length is complete now."""
        self.closed = True
        if not self._done:
            if self._head_done and self._until_close and exc is None and self._error is None:
                self._done = True
            else:
                self._error = self._error or "The backend closed the connection before its answer was complete."
        self._wake()

    # --- httptools ------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Refuse a second answer to one request."""
        if self._done:
            self._fail("The backend sent bytes that answer no request.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; the values of several with one name are joined."""
        if self._done:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        """Learn the status, and whether the body says where it ends."""
        if not self._done:
            self.status = self._parser.get_status_code()
        if self.status < 200 or self._done:
            return
        self._head_done = True
        framed = "content-length" in self.headers or "transfer-encoding" in self.headers
        self._until_close = not framed and self.status not in (204, 304)

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body; hold the backend back while nobody takes it."""
        if self._done:
            return
        self._body.append(data)
        self._buffered += len(data)
        if self._buffered > HIGH_WATER and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer is whole; an interim one (1xx) only goes before it."""
        if self.status < 200:
            self.headers = {}
        elif not self._done:
            self._done = True
            self._kept_alive = bool(self._parser.should_keep_alive()) and not self._until_close

    # --- one exchange ---------------------------------------------------------------------------

    async def ask(self, message: bytes) -> bool:
        """Send a request and wait for the head of its answer.

        Returns:
            False where the connection ended before a single byte came: nobody has begun to
            answer, and the request may be sent again elsewhere.

        Raises:
            UpstreamUnavailable: What came is not the head of an HTTP answer.
        """
        if self.closed or self._transport is None:
            return False
        self._begin()
        self._busy = True
        self._transport.write(message)
        while not self._head_done:
            if self._error is not None or self.closed:
                if not self._any_byte:
                    return False
                raise UpstreamUnavailable(self._error or "The backend closed the connection.")
            await self._wait()
        return True

    async def read(self) -> bytes | None:
        """Return what has come of the body, or None at its end.

        Raises:
            UpstreamUnavailable: It ended before its framing said so, or is not valid HTTP.
        """
        while not self._body:
            if self._done:
                return None
            if self._error is not None:
                raise UpstreamUnavailable(self._error)
            await self._wait()
        data = self._body.popleft() if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._buffered = 0
        if self._reading_paused and not self.closed and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    def abort(self) -> None:
        """Close at once, without sending what is still buffered."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, reason: str) -> None:
        self._error = self._error or reason
        self._kept_alive = False
        if self._transport is not None:
            self._transport.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
