"""Requests to backends: keys, headers, limits, and what a reply's status means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from router.interfaces import Decoder, Exchange, Parts, Route, Secrets, Transport
from router.types import Backend, Event, InferenceRequest
from router.wire.failures import failure
from shared.errors import ServiceError, UpstreamUnauthorized, UpstreamUnavailable

__all__ = ["DecodedReply", "Upstream"]

SAFE_HEADERS = ("traceparent", "tracestate")
"""Client headers that every backend may see."""
_NEVER = frozenset(
    {"authorization", "x-api-key", "cookie", "host", "content-length", "transfer-encoding", "connection"}
)
_ERROR_LIMIT = 64 * 1024
_FIXED = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "accept-encoding": "identity",
    "user-agent": "inference-router",
}


class _Line(NamedTuple):
    """What the requests to one path of one backend share."""

    backend: Backend
    route: Route
    forwarded: tuple[str, ...]
    """The client's headers that it may see, in lower case."""


class DecodedReply:
    """A backend's answer whose bytes a decoder turns into events; a `Reply`.

    Args:
        exchange: The open exchange.
        decoder: Knows the dialect.
    """

    def __init__(self, exchange: Exchange, decoder: Decoder) -> None:
        self._exchange = exchange
        self._decoder = decoder
        self._ended = False

    async def more(self, until: float) -> Sequence[Event]:
        """Return the next events; see `Reply.more`."""
        decoder = self._decoder
        while not (self._ended or decoder.done):
            if decoder.failure is not None:
                raise decoder.failure
            data = await self._exchange.read(until)
            if data is None:
                self._ended = True
                return decoder.end()
            if events := decoder.feed(data):
                return events
        if decoder.failure is not None:
            raise decoder.failure
        return ()

    async def pump(self, take: Callable[[Sequence[Event]], bool], idle: float, ends: float) -> bool:
        """Hand on the events as they come; see `Reply.pump`."""
        decoder = self._decoder

        def feed(data: bytes) -> bool:
            events = decoder.feed(data)
            wanted = not events or take(events)
            return wanted and not decoder.done and decoder.failure is None

        if (
            decoder.failure is None
            and not (decoder.done or self._ended)
            and await self._exchange.pump(feed, idle, ends)
        ):
            self._ended = True
            if events := decoder.end():
                take(events)
        if decoder.failure is not None:
            raise decoder.failure
        return decoder.done or self._ended

    async def close(self) -> None:
        """End the exchange; see `Reply.close`."""
        await self._exchange.close(complete=self._decoder.done)


def _is_event_stream(content_type: str) -> bool:
    return content_type == "text/event-stream" or content_type.partition(";")[0].strip().lower() == "text/event-stream"


class Upstream:
    """Sends requests to backends.

    Args:
        transport: Carries them.
        secrets: Where the keys that backends name are found.
    """

    def __init__(self, transport: Transport, secrets: Secrets) -> None:
        self._transport = transport
        self._secrets = secrets
        self._lines: dict[tuple[str, str], _Line] = {}

    def _line(self, backend: Backend, path: str) -> _Line:
        """Return what requests to a backend's path share; made anew when the registry tells the backend anew."""
        known = self._lines.get((backend.name, path))
        if known is not None and known.backend is backend:
            return known
        forwarded = {name.lower() for name in backend.forward_headers} - _NEVER
        headers = {name: value for name, value in _FIXED.items() if name not in forwarded}
        if backend.api_key_env is not None:
            secret = self._secrets(backend.api_key_env)
            if not secret:
                raise UpstreamUnauthorized(
                    f"The variable {backend.api_key_env} that holds the backend's key is not set."
                )
            headers["authorization"] = f"Bearer {secret}"
        route = Route(backend.base_url.rstrip("/") + path, headers)
        line = self._lines[backend.name, path] = _Line(backend, route, (*SAFE_HEADERS, *sorted(forwarded)))
        return line

    async def post(self, backend: Backend, path: str, body: Parts, request: InferenceRequest, until: float) -> Exchange:
        """Send a JSON body and return the exchange once the answer's head says success.

        Args:
            backend: Where to.
            path: Behind the backend's base URL.
            body: What to send.
            request: Its id goes along, and those of its headers that the backend may see.
            until: When to stop waiting (`time.perf_counter` seconds).

        Raises:
            ServiceError: The backend cannot be reached, answered with a 4xx or 5xx, or with no stream where one
                was asked for.
            TimeoutError: The head did not come in time.
        """
        line = self._line(backend, path)
        headers = {"x-request-id": request.id}
        theirs = request.headers
        for name in line.forwarded:
            if name in theirs:
                headers[name] = theirs[name]
            elif name in _FIXED:
                headers[name] = _FIXED[name]
        exchange = await self._transport.send(line.route, headers, body, backend.timeouts.connect, until)
        if exchange.status == 200:
            if not request.stream or _is_event_stream(exchange.headers.get("content-type", "")):
                return exchange
            await exchange.close()
            raise UpstreamUnavailable("The backend answered a streaming request with something else.")
        try:
            raise await _failure(backend, exchange, until)
        finally:
            await exchange.close()


async def _failure(backend: Backend, exchange: Exchange, until: float) -> ServiceError:
    if exchange.status < 400:
        return UpstreamUnavailable(f"The backend answered with an unexpected status {exchange.status}.")
    body = b""
    while (part := await exchange.read(until)) is not None:
        body += part
        if len(body) > _ERROR_LIMIT:
            break
    return failure(exchange.status, body, exchange.headers, quoted=backend.dialect == "local_agent")
