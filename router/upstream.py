"""Requests to backends: addresses, keys, headers, limits, and what a reply's status means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote

from router.interfaces import Decoder, Exchange, Headers, Parts, Route, Secrets, Transport
from router.types import Backend, Deployment, Event, InferenceRequest
from router.wire.decoders import EventStream
from router.wire.failures import failure
from router.wire.steering import FAIRNESS_ID, OBJECTIVE, TTFT_MS, steers
from shared.errors import ServiceError, UpstreamUnauthorized, UpstreamUnavailable

__all__ = ["OPENAI", "DecodedReply", "Manner", "Upstream"]

SAFE_HEADERS = ("traceparent", "tracestate")
"""Client headers that every backend may see."""
_NEVER = frozenset(
    {
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "cookie",
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
    }
)
_ERROR_LIMIT = 64 * 1024
_NOTED = (
    "x-ratelimit-",
    "anthropic-ratelimit-",
    "openai-processing-ms",
    "openai-version",
    "openai-model",
    "retry-after",
)
"""How the headers' names begin that a client gets of a backend's answer; none names the router's account."""
_ANONYMOUS = "anonymous"
_NOTE_SAFE = "/:@.+ ,[]=_-"
_FIXED = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "accept-encoding": "identity",
    "user-agent": "inference-router",
}


class Manner(NamedTuple):
    """How a dialect is spoken over HTTP.

    Attributes:
        key_header: Where the backend's key goes; in `authorization` it is a bearer token.
        fixed: Headers of every request.
        forwarded: Client headers, in lower case, that such a backend may see and that win over `fixed`.
        failure: What a 4xx or 5xx means by its status, body and headers; None: what it means to OpenAI.
        any_type: Whether a stream may be something else than events.
    """

    key_header: str = "authorization"
    fixed: Mapping[str, str] = MappingProxyType(_FIXED)
    forwarded: tuple[str, ...] = ()
    failure: Callable[[int, bytes, Mapping[str, str]], ServiceError] | None = None
    any_type: bool = False


OPENAI = Manner()


class _Line(NamedTuple):
    """What the requests to one path of one backend share."""

    backend: Backend
    manner: Manner
    route: Route
    forwarded: tuple[str, ...]
    """The client's headers that it may see, in lower case."""
    scheduled: bool
    """Whether a scheduler reads whose request it is, and how soon it is needed."""


class DecodedReply:
    """A backend's answer whose bytes a decoder turns into events; a `Reply`.

    Args:
        exchange: The open exchange.
        decoder: Knows the dialect.
        changes: What the request lost on its way to the backend.
        content_type: That of a stream which is none of events.
    """

    def __init__(
        self, exchange: Exchange, decoder: Decoder, changes: Sequence[str] = (), content_type: str | None = None
    ) -> None:
        self._content_type = content_type
        self._exchange = exchange
        self._decoder = decoder
        self._changes = changes
        self._ended = False

    @property
    def notes(self) -> Headers:
        """What the client gets to know besides the answer; see `Reply.notes`."""
        headers = self._exchange.headers
        pairs = [
            (name.encode("latin-1"), headers[name].encode("latin-1")) for name in headers if name.startswith(_NOTED)
        ]
        if self._changes:
            pairs.append((b"x-router-changes", quote(", ".join(self._changes), safe=_NOTE_SAFE).encode()))
        if self._content_type is not None:
            pairs.append((b"content-type", self._content_type.encode("latin-1")))
        return pairs

    async def more(self, until: float) -> Sequence[Event]:
        """Return the next events; see `Reply.more`."""
        decoder = self._decoder
        while not (self._ended or decoder.done):
            if decoder.failure is not None:
                raise decoder.failure
            try:
                data = await self._exchange.read(until)
            except (UpstreamUnavailable, TimeoutError) as error:
                return self._lost(error)
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
        refused: Exception | None = None

        def feed(data: bytes) -> bool:
            nonlocal refused
            try:
                events = decoder.feed(data)
                wanted = not events or take(events)
            except Exception as error:
                refused = error
                raise
            return wanted and not decoder.done and decoder.failure is None

        if decoder.failure is None and not (decoder.done or self._ended):
            try:
                self._ended = await self._exchange.pump(feed, idle, ends)
            except (UpstreamUnavailable, TimeoutError) as error:
                if error is refused:
                    raise
                last = self._lost(error)
            else:
                last = decoder.end() if self._ended else ()
            if last:
                take(last)
        if decoder.failure is not None:
            raise decoder.failure
        return decoder.done or self._ended

    def _lost(self, error: UpstreamUnavailable | TimeoutError) -> Sequence[Event]:
        """Return the end of a stream that broke or fell silent when nothing but its end was missing.

        Raises:
            UpstreamUnavailable: More was missing.
            TimeoutError: More was missing.
        """
        if not isinstance(self._decoder, EventStream):
            raise error
        self._ended = True
        try:
            return self._decoder.lost()
        except ServiceError:
            raise error from error.__cause__

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
        self._lines: dict[tuple[str, str, str], _Line] = {}

    def _line(self, deployment: Deployment, path: str, manner: Manner) -> _Line:
        """Return what requests to a backend's path share; made anew when the registry tells the backend anew."""
        backend = deployment.backend
        named = deployment.upstream_model if "{model}" in backend.base_url else ""
        known = self._lines.get((backend.name, path, named))
        if known is not None and known.backend is backend and known.manner is manner:
            return known
        key_header = backend.key_header or manner.key_header
        wished = {name.lower() for name in backend.forward_headers}
        scheduled = backend.tier == "cluster" and backend.dialect == "openai"
        never = _NEVER | {key_header} | {name for name in wished if steers(name, cluster=scheduled)}
        forwarded = (wished | {*manner.forwarded}) - never
        headers = {name: value for name, value in manner.fixed.items() if name not in forwarded}
        if backend.api_key_env is not None:
            secret = self._secrets(backend.api_key_env)
            if not secret:
                raise UpstreamUnauthorized(
                    f"The variable {backend.api_key_env} that holds the backend's key is not set."
                )
            headers[key_header] = f"Bearer {secret}" if key_header == "authorization" else secret
        route = Route(_address(backend.base_url, path, named), headers)
        line = _Line(backend, manner, route, (*SAFE_HEADERS, *sorted(forwarded)), scheduled)
        self._lines[backend.name, path, named] = line
        return line

    async def post(
        self,
        deployment: Deployment,
        path: str,
        body: Parts,
        request: InferenceRequest,
        until: float,
        manner: Manner = OPENAI,
    ) -> Exchange:
        """Send a body and return the exchange once the answer's head says success.

        Args:
            deployment: Where to.
            path: Behind the backend's base URL; one of a bounded number.
            body: What to send.
            request: Its id goes along, and those of its headers that the backend may see.
            until: When to stop waiting (`time.perf_counter` seconds).
            manner: How the backend's dialect is spoken; the same object each time.

        Raises:
            ServiceError: The backend cannot be reached, answered with a 4xx or 5xx, or with no stream where one
                was asked for.
            TimeoutError: The head did not come in time.
        """
        backend = deployment.backend
        line = self._line(deployment, path, manner)
        headers = {"x-request-id": request.id}
        theirs = request.headers
        for name in line.forwarded:
            if name in theirs:
                headers[name] = theirs[name]
            elif name in manner.fixed:
                headers[name] = manner.fixed[name]
        if line.scheduled:
            _schedule(headers, request)
        exchange = await self._transport.send(line.route, headers, body, backend.timeouts.connect, until)
        if 200 <= exchange.status < 300:
            if not request.stream or manner.any_type or _is_event_stream(exchange.headers.get("content-type", "")):
                return exchange
            await exchange.close()
            raise UpstreamUnavailable("The backend answered a streaming request with something else.")
        try:
            raise await _failure(backend, manner, exchange, until)
        finally:
            await exchange.close()


def _schedule(headers: dict[str, str], request: InferenceRequest) -> None:
    """Add what a cluster's scheduler goes by: the tenant, the objective of its key, and when the first token is due."""
    caller, due = request.caller, request.wishes.first_token_ms
    if caller.id != _ANONYMOUS:
        headers[FAIRNESS_ID] = caller.id
        if caller.objective is not None:
            headers[OBJECTIVE] = caller.objective
    if due is not None:
        headers[TTFT_MS] = str(due)


def _address(base_url: str, path: str, model: str) -> str:
    """Return a URL: `path` goes behind the path of the base URL, before its query."""
    base, _, query = base_url.partition("?")
    address = base.rstrip("/").replace("{model}", quote(model, safe="")) + path
    return f"{address}{'&' if '?' in path else '?'}{query}" if query else address


async def _failure(backend: Backend, manner: Manner, exchange: Exchange, until: float) -> ServiceError:
    if exchange.status < 400:
        return UpstreamUnavailable(f"The backend answered with an unexpected status {exchange.status}.")
    body = b""
    while (part := await exchange.read(until)) is not None:
        body += part
        if len(body) > _ERROR_LIMIT:
            break
    if manner.failure is not None:
        error = manner.failure(exchange.status, body, exchange.headers)
    else:
        error = failure(exchange.status, body, exchange.headers, quoted=backend.dialect == "local_agent")
    limits = _NOTED[:-1]  # errors have a place of their own for `Retry-After`
    error.extra_headers = {name: value for name, value in exchange.headers.items() if name.startswith(limits)}
    return error
