"""The Protocols between the router's rooms; effects sit behind them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from router.types import (
    Candidate,
    Deployment,
    DeploymentHealth,
    Event,
    Features,
    InferenceRequest,
    Model,
    Outcome,
)

__all__ = [
    "BackendAdapter",
    "Exchange",
    "Filter",
    "Health",
    "Scorer",
    "Secrets",
    "StateStore",
    "Transport",
    "UsageSink",
]

Health = Mapping[str, DeploymentHealth]
"""Deployment id to its health; a deployment that is not in it has never been tried."""

Secrets = Callable[[str], str | None]
"""The value of a named secret, or None where it is not set."""


class BackendAdapter(Protocol):
    """Speaks one wire dialect to a backend."""

    def send(self, request: InferenceRequest, deployment: Deployment, reply_model: str | None) -> AsyncIterator[Event]:
        """Send the request and yield what comes back, translated to the client's dialect.

        A non-streaming request yields one `Completion`; a streaming one yields `Chunk`s, the
        last of which is `[DONE]`. Closing the iterator closes the upstream exchange at once.

        Args:
            request: What the client asked for.
            deployment: Where to send it.
            reply_model: What replies say in `model`; None keeps the backend's own.

        Raises:
            UpstreamError: Whatever went wrong, as one of ours.
            ContextLengthExceeded: The backend says that the prompt is too long.
        """
        ...


Filter = Callable[[Features, Model, Deployment, DeploymentHealth], str | None]
"""Pure: None keeps the deployment, a string is the reason against it."""

Scorer = Callable[[Features, Sequence[Candidate], Health], list[float]]
"""Pure: one score in [0, 1] for each candidate, in their order."""


class Exchange(Protocol):
    """A backend's answer: its head, and its body as it comes. `close()` must be called."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes, uncompressed.

        Raises:
            UpstreamUnavailable: It ended before its framing said so, or cannot be read.
        """
        ...

    async def close(self) -> None:
        """Give the connection back if the whole answer has been read, else close it at once."""
        ...


class Transport(Protocol):
    """Carries requests to backends over HTTP, on pooled connections."""

    async def send(self, url: str, body: bytes, headers: Mapping[str, str], connect_timeout: float) -> Exchange:
        """Send a POST and return the answer once its head is there.

        Args:
            url: `http://` or `https://`.
            body: The request's body.
            headers: The request's headers, without `Host` and `Content-Length`.
            connect_timeout: Seconds to wait for a free connection and for it to be opened.

        Raises:
            UpstreamUnavailable: The backend cannot be reached, or does not answer in HTTP.
            UpstreamTimeout: No connection was made in time.
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

    @property
    def available(self) -> bool:
        """Whether the store answered last time."""
        ...


class UsageSink(Protocol):
    """Takes each request's outcome; never blocks and never raises."""

    def write(self, outcome: Outcome) -> None:
        """Accept one outcome; it is durable soon after."""
        ...
