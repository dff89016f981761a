"""The Protocols between the router's rooms; effects sit behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

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

__all__ = ["BackendAdapter", "Cache", "Filter", "Health", "Scorer", "Secrets", "StateStore", "UsageSink"]

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


class Filter(Protocol):
    """Decides whether a deployment can and may serve a request; pure."""

    name: str

    def __call__(
        self, features: Features, model: Model, deployment: Deployment, health: DeploymentHealth
    ) -> str | None:
        """Return None to keep the deployment, else the reason against it."""
        ...


class Scorer(Protocol):
    """Rates a candidate from 0 (worst) to 1 (best); pure."""

    name: str

    def __call__(self, features: Features, candidates: list[Candidate], health: Health) -> list[float]:
        """Return one score in [0, 1] for each candidate, in their order."""
        ...


class StateStore(Protocol):
    """State shared by routers: small values with a time to live.

    Every call is bounded in time and never raises for a store that is away: a read then finds
    nothing and a write is lost.
    """

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None where there is none or the store is away."""
        ...

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Keep a value for `ttl` seconds."""
        ...

    @property
    def available(self) -> bool:
        """Whether the store answered last time."""
        ...


class Cache(Protocol):
    """Answers kept for identical requests."""

    async def get(self, request: InferenceRequest) -> list[Event] | None:
        """Return the answer's events in the form the request wants (stream or not), or None."""
        ...

    async def put(self, request: InferenceRequest, events: list[Event]) -> None:
        """Keep a complete answer."""
        ...


class UsageSink(Protocol):
    """Takes each request's outcome; never blocks and never raises."""

    def write(self, outcome: Outcome) -> None:
        """Accept one outcome; it is durable soon after."""
        ...
