"""The Protocols between the router's rooms; effects sit behind them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from router.types import (
    Caller,
    Candidate,
    Chunk,
    Completion,
    Deployment,
    DeploymentHealth,
    Endpoint,
    Event,
    Features,
    InferenceRequest,
    Model,
    Outcome,
)
from shared.errors import ServiceError

__all__ = [
    "BackendAdapter",
    "Bridge",
    "Bridges",
    "Decoder",
    "Exchange",
    "Filter",
    "Front",
    "Headers",
    "Health",
    "HealthFeed",
    "HealthState",
    "Parts",
    "Reply",
    "Route",
    "Scorer",
    "Secrets",
    "StateStore",
    "TrackedHealth",
    "Transport",
    "UsageSink",
]

Health = Mapping[str, DeploymentHealth]
"""Deployment id to its health; a deployment that is not in it has never been tried."""

Secrets = Callable[[str], str | None]
"""The value of a named secret, or None where it is not set."""


Headers = Sequence[tuple[bytes, bytes]]
"""Headers as they are sent, names in lower case."""


class Reply(Protocol):
    """A backend's answer, in the dialect of the request that was sent. `close()` must be called."""

    @property
    def notes(self) -> Headers:
        """What the client gets to know besides the answer: the backend's rate limits, what was changed."""
        ...

    async def more(self, until: float) -> Sequence[Event]:
        """Return the next events; none mean that the answer is complete.

        A non-streaming request gets one `Completion`; a streaming one `Chunk`s, the last of which is `done`.

        Args:
            until: When to stop waiting (`time.perf_counter` seconds).

        Raises:
            UpstreamError: Whatever went wrong, as one of ours.
            ContextLengthExceeded: The backend says that the prompt is too long.
            TimeoutError: Nothing came in time.
        """
        ...

    async def pump(self, take: Callable[[Sequence[Event]], bool], idle: float, ends: float) -> bool:
        """Hand on the events as they come, with nothing in between, until `take` says False or all is told.

        Args:
            take: Takes events; says whether it wants more.
            idle: Seconds without a sign of life after which to give up.
            ends: When to give up in any case (`time.perf_counter` seconds).

        Returns:
            Whether the answer is complete.

        Raises:
            UpstreamError: Whatever went wrong, as one of ours.
            TimeoutError: Nothing came in time.
        """
        ...

    async def close(self) -> None:
        """End the exchange with the backend at once; calling it again does nothing."""
        ...


class BackendAdapter(Protocol):
    """Speaks one wire dialect to a backend."""

    def speaks(self, endpoint: Endpoint, candidate: Candidate) -> bool:
        """Return whether a request of this endpoint can be sent as it is; if not, it is bridged over chat."""
        ...

    async def send(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None, until: float
    ) -> Reply:
        """Send the request and return the reply once its head says success.

        Args:
            request: What the client asked for.
            deployment: Where to send it.
            reply_model: What replies say in `model`; None keeps the backend's own.
            until: When to stop waiting (`time.perf_counter` seconds).

        Raises:
            UpstreamError: Whatever went wrong, as one of ours.
            ContextLengthExceeded: The backend says that the prompt is too long.
            TimeoutError: Nothing came in time.
        """
        ...


class Bridge(Protocol):
    """Carries one request of another endpoint over chat, and its answer back; made anew for each attempt."""

    @property
    def request(self) -> InferenceRequest:
        """The same request as a chat request; its `changes` say what chat has no words for.

        A stream asks for its usage.
        """
        ...

    def whole(self, completion: Completion) -> Completion:
        """Return a whole chat answer in the client's dialect."""
        ...

    def feed(self, chunk: Chunk) -> Chunk:
        """Return the next piece of a chat stream in the client's dialect.

        `chunk.raw` holds none, one or several whole events; the last piece is `done` and holds `[DONE]`. In
        what is returned `raw` holds the client's events, perhaps none; the other fields stay.
        """
        ...


Bridges = Mapping[Endpoint, Callable[[InferenceRequest], Bridge]]
"""How the requests of each endpoint that chat can carry are bridged."""


class Front(NamedTuple):
    """How the clients of one endpoint are spoken with; pure.

    Attributes:
        parse: Makes a request of a body, a request id, the caller and the client's headers (names in lower
            case); raises `InvalidRequest` where the body is none.
        error: Returns the status and the JSON body that tell an error.
        error_event: Returns the event that tells an error in a stream, and ends it.
        ping: An event that says nothing, sent while a backend thinks; empty where a stream may be none of events.
        names: Headers in which, besides `x-request-id`, the request's id is told.
    """

    parse: Callable[[bytes, str, Caller, Mapping[str, str]], InferenceRequest]
    error: Callable[[ServiceError], tuple[int, bytes]]
    error_event: Callable[[ServiceError], bytes]
    ping: bytes = b": ping\n\n"
    names: Sequence[bytes] = ()


class Decoder(Protocol):
    """Turns the bytes of one answer's body into events; pure."""

    @property
    def done(self) -> bool:
        """Whether the answer said all that it had to say, before its framing ends."""
        ...

    @property
    def failure(self) -> ServiceError | None:
        """What is to be raised once the events before it have been taken."""
        ...

    def feed(self, data: bytes) -> Sequence[Event]:
        """Return the events that `data` completes.

        Raises:
            UpstreamError: What the backend sent is no answer, or says that it failed.
        """
        ...

    def end(self) -> Sequence[Event]:
        """Return the events that the end of the body completes; called at most once.

        Raises:
            UpstreamError: The body ended before the answer did, or is none.
        """
        ...


class HealthState(Protocol):
    """What is known of a deployment; a `DeploymentHealth` that may change in place."""

    @property
    def available(self) -> bool: ...  # noqa: D102 - as in DeploymentHealth
    @property
    def in_flight(self) -> int: ...  # noqa: D102
    @property
    def first_token_ms(self) -> float | None: ...  # noqa: D102
    @property
    def failure_rate(self) -> float: ...  # noqa: D102


class TrackedHealth(HealthState, Protocol):
    """The state of a deployment that is known by its id."""

    @property
    def id(self) -> str: ...  # noqa: D102


class HealthFeed(Protocol):
    """What is known of deployments, and what of it is new to a reader that comes back."""

    def news(self, since: int, most: int) -> tuple[int, Sequence[TrackedHealth] | None]:
        """Return the number of the last change, and what changed after the change `since`, some perhaps twice.

        Where that is more than `most`, or no longer known, the reader gets None and looks at everybody.
        A number of -1 stands for a reader that knows nothing yet.
        """
        ...

    def state(self, deployment: str) -> TrackedHealth | None:
        """Return the state of a deployment, or None where it was never tried; one object for good."""
        ...


Filter = Callable[[Features, Model, Deployment, DeploymentHealth], str | None]
"""Pure: None keeps the deployment, a string is the reason against it."""

Scorer = Callable[[Features, Sequence[Candidate], Health], list[float]]
"""Pure: one score in [0, 1] for each candidate, in their order."""


class Route:
    """Where one kind of request to one backend goes; kept as long as the backend, and compared by identity.

    Args:
        url: `http://` or `https://`.
        headers: Those of every request, without `Host` and `Content-Length`.
    """

    __slots__ = ("headers", "prepared", "url")

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url = url
        self.headers = headers
        self.prepared: object = None
        """What a transport makes of it once, for itself."""


Parts = Sequence[bytes | memoryview]
"""A request's body, in the order it is sent."""


class Exchange(Protocol):
    """A backend's answer: its head, and its body as it comes. `close()` must be called."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers, names in lower case."""
        ...

    async def read(self, until: float) -> bytes | None:
        """Return what has come of the body, uncompressed, or None at its end.

        Args:
            until: When to stop waiting (`time.perf_counter` seconds).

        Raises:
            UpstreamUnavailable: It ended before its framing said so, or cannot be read.
            TimeoutError: Nothing came in time.
        """
        ...

    async def pump(self, take: Callable[[bytes], bool], idle: float, ends: float) -> bool:
        """Hand on the body as it comes, with nothing in between, until `take` says False or the body ends.

        Args:
            take: Takes a piece of the body; says whether it wants more. What it raises ends the pumping.
            idle: Seconds without a piece after which to give up.
            ends: When to give up in any case (`time.perf_counter` seconds).

        Returns:
            Whether the body has ended.

        Raises:
            UpstreamUnavailable: It ended before its framing said so, or cannot be read.
            TimeoutError: Nothing came in time.
        """
        ...

    async def close(self, *, complete: bool = False) -> None:
        """Give the connection back if the whole answer has been read, else close it; again does nothing.

        Args:
            complete: The answer said all that it had to say; the end of its framing may take a moment more.
        """
        ...


class Transport(Protocol):
    """Carries requests to backends over HTTP, on pooled connections."""

    async def send(
        self, route: Route, headers: Mapping[str, str], body: Parts, connect: float, until: float
    ) -> Exchange:
        """Send a POST and return the answer once its head is there.

        Args:
            route: Where to, with the headers that every request has.
            headers: The headers of this request alone.
            body: The request's body.
            connect: Seconds to wait for a free connection and for it to be opened.
            until: When to stop waiting for the head (`time.perf_counter` seconds).

        Raises:
            UpstreamUnavailable: The backend cannot be reached, or does not answer in HTTP.
            UpstreamTimeout: No connection was made in time.
            TimeoutError: The head did not come in time.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class StateStore(Protocol):
    """State shared by routers: small values with a time to live.

    Every call is bounded in time and never raises for a store that is away: a read then finds
    nothing and a write is lost.
    """

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None where there is none or the store is away."""
        ...

    def put(self, key: str, value: bytes, ttl: float) -> Coroutine[Any, Any, None]:
        """Keep a value for `ttl` seconds."""
        ...

    async def put_if_absent(self, key: str, value: bytes, ttl: float) -> bool | None:
        """Keep a value where there is none; say whether that was so, None where the store is away."""
        ...

    async def delete(self, key: str) -> None:
        """Forget a value."""
        ...

    @property
    def available(self) -> bool:
        """Whether the store answered last time."""
        ...


class UsageSink(Protocol):
    """Takes each request's outcome; never blocks and never raises."""

    def write(self, outcome: Outcome) -> None:
        """Accept one outcome; it is durable soon after."""
        ...
