"""One HTTP/1.1 connection to a backend: bytes in, an answer's head and body out."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from router.interfaces import Parts
from router.outbox import Outbox
from shared.errors import UpstreamUnavailable

__all__ = ["Connection"]

HEAD_LIMIT = 64 * 1024
"""Largest head of an answer, in bytes."""
HIGH_WATER = 256 * 1024
"""Bytes of a body that wait for their reader before the backend is held back."""
_clock = time.perf_counter


class Connection(asyncio.Protocol):
    """An asyncio protocol that carries one exchange at a time, for one reader.

    One timer serves every wait: it is moved only to come earlier, and looks at the present limit
    when it fires, so a limit that moves on with every piece costs nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        self._outbox = outbox
        self.closed = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._ended: Callable[[], None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._take: Callable[[bytes], bool] | None = None
        self._idle = 0.0
        self._ends = 0.0
        self._refused: Exception | None = None
        self._busy = False
        self._body: deque[bytes] = deque()
        self._parser = httptools.HttpResponseParser(self)
        self._begin()

    def _begin(self) -> None:
        """Forget the last answer; the parser is kept, because that one ended as its framing said."""
        self.status, self.headers = 0, {}
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
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

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
        if self._take is None:
            self._wake()
        else:
            self._hand_on(self._take)
        if self._ended is not None and (self._done or self._error):
            self._end()

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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()
        self._end()

    # --- httptools ------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Refuse a second answer to one request, though it be only the beginning of one."""
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
        if self._done:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:
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

    def send(self, head: bytes, body: Parts) -> bool:
        """Send a request; False where the connection has ended already."""
        if self.closed or self._transport is None:
            return False
        self._begin()
        self._busy = True
        # Joining copies the body; what is small costs less in one piece than in several.
        if max(map(len, body), default=0) < HEAD_LIMIT:
            self._outbox.write(self._transport, b"".join((head, *body)))
        else:
            self._outbox.flush()
            self._transport.writelines((head, *body))
        return True

    async def answered(self, until: float) -> bool:
        """Wait for the head of the answer.

        Returns:
            False where the connection ended before a single byte came: nobody has begun to
            answer, and the request may be sent again elsewhere.

        Raises:
            UpstreamUnavailable: What came is not the head of an HTTP answer.
            TimeoutError: Nothing came in time.
        """
        while not self._head_done:
            if self._error is not None or self.closed:
                if not self._any_byte:
                    return False
                raise UpstreamUnavailable(self._error or "The backend closed the connection.")
            await self._wait(until)
        return True

    async def read(self, until: float) -> bytes | None:
        """Return what has come of the body, or None at its end.

        Raises:
            UpstreamUnavailable: It ended before its framing said so, or is not valid HTTP.
            TimeoutError: Nothing came in time.
        """
        while not self._body:
            if self._done:
                return None
            if self._error is not None:
                raise UpstreamUnavailable(self._error)
            await self._wait(until)
        return self._taken()

    async def pump(self, take: Callable[[bytes], bool], idle: float, ends: float) -> bool:
        """Hand on the body as it comes; see `Exchange.pump`.

        Each piece goes on from the callback that brought it: no task wakes up for it.
        """
        self._idle, self._ends = idle, ends
        while self._body:
            if not take(self._taken()):
                return False
        self._take = take
        try:
            while not self._done:
                if self._error is not None:
                    raise UpstreamUnavailable(self._error)
                await self._wait(min(_clock() + idle, ends))
                if self._refused is not None:
                    raise self._refused
                if not self._pumping:
                    return False
            return True
        finally:
            self._take = self._refused = None

    @property
    def _pumping(self) -> bool:
        return self._take is not None

    def _hand_on(self, take: Callable[[bytes], bool]) -> None:
        """Give what has come to whoever pumps, and wake it if that was the last of it."""
        if self._body:
            until = _clock() + self._idle
            self._until = min(self._ends, until)
            try:
                if not take(self._taken()):
                    self._take = None
            except Exception as error:  # noqa: BLE001 - raised where the pumping was asked for
                self._take, self._refused = None, error
        if self._take is None or self._done or self._error is not None:
            self._wake()

    def _taken(self) -> bytes:
        """Take what has come of the body, and let more come."""
        body = self._body
        if len(body) == 1:
            data = body.popleft()
        else:
            data = b"".join(body)
            body.clear()
        self._buffered = 0
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    def when_ended(self, ended: Callable[[], None], seconds: float) -> None:
        """Call `ended` once the answer's framing is complete, or the connection lost, or after `seconds`.

        Whoever says `[DONE]` has told all; the few bytes that close its framing may come a moment later.
        """
        if self._done or self._error or self.closed:
            ended()
            return
        self._ended = ended
        self._linger = self._loop.call_later(seconds, self._end)

    def _end(self) -> None:
        if (ended := self._ended) is not None:
            self._ended = None
            if self._linger is not None:
                self._linger.cancel()
                self._linger = None
            ended()

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

    async def _wait(self, until: float) -> None:
        self._until = until
        if self._timer is None or until < self._timer_at:
            self._arm(until)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _arm(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = until
        self._timer = self._loop.call_later(max(0.0, until - _clock()), self._look)

    def _look(self) -> None:
        """The timer has fired: end the wait if its limit has passed, else look again when it does."""
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        # A millisecond is what event loops round to; without it the timer would fire again and again.
        if self._until - _clock() > 0.001:
            self._arm(self._until)
        else:
            self._waiter.set_exception(TimeoutError())
