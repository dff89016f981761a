"""DataPlaneExchange: one data-plane request and its answer on a client's connection."""

from __future__ import annotations

import asyncio
import http
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from router.api.client import Call, answer_error
from router.api.deps import Services
from router.api.respond import Resource, respond
from router.interfaces import Headers
from shared.errors import InternalError, Overloaded, StreamInterrupted

if TYPE_CHECKING:
    from router.server.protocol import DataPlaneProtocol

__all__ = ["DataPlaneExchange"]

_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS = {code: f"HTTP/1.1 {code} {_PHRASES.get(code, '')}\r\n".encode() for code in range(100, 600)}
_PATIENCE = 120.0
"""Seconds that a client may take nothing of a stream that is there for it."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LONG = 256 * 1024
_log = logging.getLogger(__name__)
_access = logging.getLogger("router.access")


class _Silent:
    """In place of the event by which uvicorn wakes an ASGI application."""

    def set(self) -> None:
        """Do nothing: the exchange's task is told by cancelling it."""


class DataPlaneExchange:
    """A `Client` on uvicorn's connection, and an `Audience`; the protocol sees it as the connection's present cycle.

    Args:
        protocol: The connection.
        services: What the router is made of.
        resource: What was called.
        headers: The request's headers, names in lower case.
        length: Bytes of the request's body.
        keep_alive: Whether the connection may serve another request.
    """

    message_event = _Silent()
    more_body = False

    def __init__(
        self,
        protocol: DataPlaneProtocol,
        services: Services,
        resource: Resource,
        headers: Mapping[str, str],
        length: int,
        keep_alive: bool,
    ) -> None:
        self._parts: list[bytes] = []
        # A long body is gathered in its place: pieces of it kept until the last would take its room twice.
        self._long = bytearray(length) if length > _LONG else None
        self._filled = 0
        self.keep_alive = keep_alive
        self.disconnected = False
        self.said = True
        self.response_complete = False
        self._protocol = protocol
        self._transport = protocol.transport
        self._flow = protocol.flow
        self._services = services
        self._outbox = services.outbox
        self._resource = resource
        self._headers = headers
        self._path = protocol.url.decode("latin-1")
        self._started = time.perf_counter()
        self._id = services.make_id()
        self._status = 0
        self._task: asyncio.Task[None] | None = None

    # --- the request ------------------------------------------------------------------------------

    def add(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        if self._long is None:
            self._parts.append(data)
            return
        end = self._filled + len(data)
        self._long[self._filled : end] = data
        self._filled = end

    def _body(self) -> bytes:
        """Return the request's body, once."""
        parts, self._parts = self._parts, []
        if self._long is not None:
            # Nobody writes to it any more, and as `bytes` it would be copied.
            body, self._long = cast("bytes", self._long), None
            return body
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to answer: the request's body is whole."""
        if self._task is not None:
            return
        self._outbox.open += 1
        task = self._task = loop.create_task(self._run())
        self._protocol.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Not in the task itself: one that is cancelled before its first step runs no `finally`.
        self._outbox.open -= 1
        self._protocol.tasks.discard(task)

    def lost(self) -> None:
        """Stop: the client has left."""
        if not self.response_complete:
            self.disconnected = True
            if self._task is not None:
                self._task.cancel()

    async def _run(self) -> None:
        log: dict[str, Any] = {}
        call = Call(self._id, self._started, self._headers, self._body())
        try:
            await respond(self._services, call, self, log, self._resource)
        except asyncio.CancelledError:
            if not self.disconnected:
                await self._cut_off()
        except Exception:  # noqa: BLE001 - the last line against crashes
            _log.exception("unhandled exception", extra={"fields": {"request_id": self._id}})
            await self._crashed()
        finally:
            self._write_log(log)

    async def _cut_off(self) -> None:
        """Tell a client whose answer takes longer than the router has left: the server has cancelled it."""
        front = self._resource.front
        if not self._status:
            await answer_error(self, Overloaded("The router is shutting down; try again.", retry_after=1), front)
        elif front.ping:
            await self.end(front.error_event(StreamInterrupted("The router is shutting down.")))
        self.abort()

    async def _crashed(self) -> None:
        if self._status:
            self._outbox.flush()
            self._protocol.transport.close()  # the head is out: only closing the connection tells the client
        else:
            error = InternalError(f"The server had an internal error. Request id: {self._id}.")
            await answer_error(self, error, self._resource.front)

    def _write_log(self, log: dict[str, Any]) -> None:
        fields: dict[str, Any] = {
            "request_id": self._id,
            "method": "POST",
            "path": self._path,
            "status": self._status or 499,
            "ms": round((time.perf_counter() - self._started) * 1000, 2),
        }
        theirs = self._headers.get("x-request-id")
        if theirs is not None and _REQUEST_ID.fullmatch(theirs):
            fields["client_request_id"] = theirs
        fields.update(log)
        if self._services.access is not None:
            self._services.access.write(fields)
        else:
            _access.info("request", extra={"fields": fields})

    # --- the answer: Client -------------------------------------------------------------------------

    async def answer(
        self, status: int, headers: Headers, body: bytes, content_type: bytes = b"application/json"
    ) -> None:
        """Send a whole answer."""
        head = self._head(status, headers)
        head += (b"content-type: %b\r\ncontent-length: %d\r\n\r\n" % (content_type, len(body)), body)
        self._outbox.write(self._transport, b"".join(head))
        self._complete()

    @property
    def begun(self) -> bool:
        """Whether a head is out."""
        return self._status != 0

    response_started = begun

    def begin(self, headers: Headers) -> None:
        """Begin a stream, with status 200; where it has begun already, that was that."""
        if self._status:
            return
        head = self._head(200, headers)
        head.append(b"transfer-encoding: chunked\r\n\r\n")
        self._outbox.write(self._transport, b"".join(head))

    def push(self, data: bytes) -> bool:
        """Send a piece of a stream; say whether there is room for more now."""
        self.said = True
        self._outbox.write(self._transport, b"%x\r\n%b\r\n" % (len(data), data))
        return not (self._flow.write_paused or self.disconnected)

    async def drain(self) -> None:
        """Wait until there is room for more."""
        if self.disconnected:
            raise asyncio.CancelledError
        try:
            await asyncio.wait_for(self._flow.drain(), _PATIENCE)
        except asyncio.TimeoutError:
            self._transport.abort()  # who reads nothing holds a backend's answer back for good
            raise asyncio.CancelledError from None

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece of a stream, and its end."""
        self._outbox.write(self._transport, b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n")
        self._complete()

    def abort(self) -> None:
        """End the connection; see `Client.abort`."""
        self._outbox.flush()
        self._transport.close()

    def ping(self, data: bytes, head: Callable[[], Headers]) -> None:
        """Send an event that says nothing; see `Audience.ping`."""
        if not (self.response_complete or self.disconnected or self._flow.write_paused):
            if not self._status:
                self.begin(head())
            self.push(data)

    @property
    def stuck(self) -> bool:
        """Never: `drain` itself watches for how long."""
        return False

    def give_up(self) -> None:
        """Close the connection."""
        self._transport.abort()

    def _head(self, status: int, headers: Headers) -> list[bytes]:
        if self.disconnected:
            raise asyncio.CancelledError
        if self._services.presence.leaving:
            self.keep_alive = False
        lines = [_STATUS[status], b"x-request-id: %b\r\n" % self._id.encode()]
        for name in self._resource.front.names:
            lines += (name, b": ", self._id.encode(), b"\r\n")
        for name, value in self._protocol.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        self._status = status
        return lines

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._outbox.flush()
            self._protocol.transport.close()
        self._protocol.on_response_complete()
