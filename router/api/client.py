"""Who asked: a call as every front hands it over, and the connection that the answer goes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from router.interfaces import Front, Headers
from shared.asgi import Send, send_json
from shared.errors import MethodNotAllowed, ServiceError

__all__ = ["AsgiClient", "Call", "Client", "answer_error"]


class Call(Struct, frozen=True):
    """One HTTP request, read whole."""

    id: str
    started: float
    """When it came in (`time.perf_counter` seconds)."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Client(Protocol):
    """The connection that an answer goes to."""

    async def answer(
        self, status: int, headers: Headers, body: bytes, content_type: bytes = b"application/json"
    ) -> None:
        """Send a whole answer."""
        ...

    async def begin(self, headers: Headers) -> None:
        """Begin a stream, with status 200."""
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


async def answer_error(client: Client, error: ServiceError, front: Front) -> None:
    """Send an error as the clients of an endpoint expect it."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in error.headers().items()]
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", b"POST"))
    status, body = front.error(error)
    await client.answer(status, headers, body)


class AsgiClient:
    """A `Client` behind any ASGI server.

    Args:
        send: The request's send channel.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._kept = b""

    async def answer(
        self, status: int, headers: Headers, body: bytes, content_type: bytes = b"application/json"
    ) -> None:
        """Send a whole answer."""
        await send_json(self._send, status, body, headers, content_type)

    async def begin(self, headers: Headers) -> None:
        """Begin a stream, with status 200."""
        await self._send({"type": "http.response.start", "status": 200, "headers": list(headers)})

    def push(self, data: bytes) -> bool:
        """Keep a piece of a stream for `drain`: only a coroutine can send it."""
        self._kept = data
        return False

    async def drain(self) -> None:
        """Send the piece that was kept."""
        data, self._kept = self._kept, b""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece of a stream, and its end."""
        await self._send({"type": "http.response.body", "body": self._kept + data})
