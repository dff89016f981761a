"""Requests to backends: keys, headers, limits, and what a reply's status means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

from router.interfaces import Exchange, Secrets, Transport
from router.types import Backend
from router.wire.failures import failure
from shared.errors import ServiceError, UpstreamUnauthorized, UpstreamUnavailable
from shared.sse import EventTooLarge, SSEEvent, SSEReader

__all__ = ["Reply", "Upstream"]

SAFE_HEADERS = ("traceparent", "tracestate")
"""Client headers that every backend may see."""
_NEVER = frozenset(
    {"authorization", "x-api-key", "cookie", "host", "content-length", "transfer-encoding", "connection"}
)
_ERROR_LIMIT = 64 * 1024


class Reply:
    """A backend's successful answer whose body is still to be read.

    Args:
        exchange: The open exchange.
        limit: The largest whole body accepted, in bytes.
    """

    def __init__(self, exchange: Exchange, limit: int) -> None:
        self._exchange = exchange
        self._limit = limit

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters."""
        header = self._exchange.headers.get("content-type", "")
        return header.partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            UpstreamUnavailable: It is cut off, or larger than the limit.
        """
        parts: list[bytes] = []
        size = 0
        async with aclosing(self._exchange.chunks()) as chunks:
            async for part in chunks:
                size += len(part)
                if size > self._limit:
                    raise UpstreamUnavailable(f"The backend's answer exceeds {self._limit} bytes.")
                parts.append(part)
        return b"".join(parts)

    async def events(self) -> AsyncIterator[SSEEvent]:
        """Yield the events of a stream as they come.

        Raises:
            UpstreamUnavailable: The answer is no event stream, is cut off in the middle of an
                event, or holds one that is too large.
        """
        if self.content_type != "text/event-stream":
            raise UpstreamUnavailable("The backend answered a streaming request with something else.")
        reader = SSEReader()
        try:
            async with aclosing(self._exchange.chunks()) as chunks:
                async for part in chunks:
                    for event in reader.feed(part):
                        yield event
        except EventTooLarge as error:
            raise UpstreamUnavailable("The backend's stream holds an event that is too large.") from error
        if (rest := reader.close()).strip():
            for event in SSEReader().feed(rest + b"\n\n"):
                yield event


class Upstream:
    """Sends requests to backends.

    Args:
        transport: Carries them.
        secrets: Where the keys that backends name are found.
        answer_limit: The largest whole answer accepted, in bytes.
    """

    def __init__(self, transport: Transport, secrets: Secrets, answer_limit: int = 256 * 1024 * 1024) -> None:
        self._transport = transport
        self._secrets = secrets
        self._answer_limit = answer_limit

    def _headers(self, backend: Backend, client_headers: Mapping[str, str], request_id: str) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "user-agent": "inference-router",
            "x-request-id": request_id,
        }
        for name in (*SAFE_HEADERS, *(name.lower() for name in backend.forward_headers)):
            if name in client_headers and name not in _NEVER:
                headers[name] = client_headers[name]
        if backend.api_key_env is not None:
            secret = self._secrets(backend.api_key_env)
            if not secret:
                raise UpstreamUnauthorized(
                    f"The variable {backend.api_key_env} that holds the backend's key is not set."
                )
            headers["authorization"] = f"Bearer {secret}"
        return headers

    @asynccontextmanager
    async def post(
        self, backend: Backend, path: str, body: bytes, client_headers: Mapping[str, str], request_id: str
    ) -> AsyncIterator[Reply]:
        """Send a JSON body and yield the reply once its head says success.

        Leaving the context closes the exchange at once, read to its end or not. Only connecting
        is timed here; the limits on the answer are the dispatcher's.

        Raises:
            ServiceError: The backend cannot be reached or answered with a 4xx or 5xx.
        """
        url = backend.base_url.rstrip("/") + path
        headers = self._headers(backend, client_headers, request_id)
        exchange = await self._transport.send(url, body, headers, backend.timeouts.connect)
        try:
            if exchange.status != 200:
                raise await _failure(backend, exchange)
            yield Reply(exchange, self._answer_limit)
        finally:
            await exchange.close()


async def _failure(backend: Backend, exchange: Exchange) -> ServiceError:
    if exchange.status < 400:
        return UpstreamUnavailable(f"The backend answered with an unexpected status {exchange.status}.")
    body = b""
    async with aclosing(exchange.chunks()) as chunks:
        async for part in chunks:
            body += part
            if len(body) > _ERROR_LIMIT:
                break
    return failure(exchange.status, body, exchange.headers, quoted=backend.dialect == "local_agent")
