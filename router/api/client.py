"""Who asked: a call as every front hands it over, and the connection that the answer goes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from msgspec import Struct

from router.delivery.pulse import Audience
from router.interfaces import Front, Headers
from shared.asgi import Send, send_json
from shared.errors import MethodNotAllowed, ServiceError

__all__ = ["AsgiClient", "Call", "Client", "Listener", "answer_error"]


class Call(Struct, frozen=True):
    """One HTTP request, read whole."""

    id: str
    started: float
    """When it came in (`time.perf_counter` seconds)."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Listener(Protocol):
    """Takes one answer."""

    @property
    def begun(self) -> bool:
        """Whether a head is out: from then on only the stream itself can tell of an error."""
        ...

    async def answer(
        self, status: int, headers: Headers, body: bytes, content_type: bytes = b"application/json"
    ) -> None:
        """Send a whole answer."""
        ...

    def begin(self, headers: Headers) -> None:
        """Begin a stream, with status 200; where it has begun already, that was that."""
        ...

    def push(self, data: bytes) -> bool:
        """Send a piece of a stream, or keep it to be sent; say whether there is room for more now."""
        ...

    async def drain(self) -> None:
        """Wait until there is room for more."""
        ...

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece of a stream, and its end."""
        ...


class Client(Listener, Audience, Protocol):
    """The connection that an answer goes to."""

    def abort(self) -> None:
        """End the connection in the middle of an answer, so that nobody takes it for whole."""
        ...


async def answer_error(client: Client, error: ServiceError, front: Front) -> None:
    """Send an error as the clients of an endpoint expect it."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in error.headers().items()]
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", b"OPTIONS, POST"))
    status, body = front.error(error)
    await client.answer(status, headers, body)


class AsgiClient:
    """A `Client` behind any ASGI server, and an `Audience` of the pulse.

    Args:
        send: The request's send channel.
        named: Headers besides `x-request-id` that name the request.
    """

    def __init__(self, send: Send, named: Headers = ()) -> None:
        self._send = send
        self._named = named
        self._head: Headers | None = None
        self._kept = b""
        self._task: asyncio.Task[None] | None = None
        self._ping: asyncio.Task[None] | None = None
        self.begun = False
        self.said = True

    async def answer(
        self, status: int, headers: Headers, body: bytes, content_type: bytes = b"application/json"
    ) -> None:
        """Send a whole answer."""
        self.begun = True
        await send_json(self._send, status, body, (*headers, *self._named), content_type)

    def begin(self, headers: Headers) -> None:
        """Begin a stream, with status 200: the head goes out with its first piece."""
        if not self.begun:
            self.begun, self._head = True, headers

    def push(self, data: bytes) -> bool:
        """Keep a piece of a stream for `drain`: only a coroutine can send it."""
        self._kept = data
        return False

    async def drain(self) -> None:
        """Send the piece that was kept."""
        data, self._kept = self._kept, b""
        await self._write(data, more=True)

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece of a stream, and its end."""
        data, self._kept = self._kept + data, b""
        await self._write(data, more=False)

    def abort(self) -> None:
        """Leave the answer without its end; see `Client.abort`: the server then closes the connection."""

    async def _write(self, data: bytes, *, more: bool) -> None:
        self.said = True
        self._task = asyncio.current_task()
        try:
            if self._ping is not None:  # one at a time: ASGI knows no order among two that send
                await asyncio.wait((self._ping,))
                self._ping = None
            await self._tell(data, more=more)
        finally:
            self._task = None

    async def _tell(self, data: bytes, *, more: bool) -> None:
        head, self._head = self._head, None
        if head is not None:
            await self._send({"type": "http.response.start", "status": 200, "headers": [*head, *self._named]})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    # --- Audience ---------------------------------------------------------------------------------

    @property
    def stuck(self) -> bool:
        """Whether a piece waits for the client to read."""
        return self._task is not None

    def ping(self, data: bytes, head: Callable[[], Headers]) -> None:
        """Send an event that says nothing; see `Audience.ping`. Not while another waits for the client to read."""
        if self._task is None and (self._ping is None or self._ping.done()):
            self.begin(() if self.begun else head())
            self._ping = asyncio.ensure_future(self._tell(data, more=True))

    def give_up(self) -> None:
        """Stop: the client reads nothing."""
        if self._task is not None:
            self._task.cancel()

    async def hush(self) -> None:
        """End a ping that still waits for the client to read."""
        if self._ping is not None:
            self._ping.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._ping
