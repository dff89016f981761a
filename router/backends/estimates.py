"""Answers that need no backend: an estimate of a prompt's tokens, where the backend cannot count."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.interfaces import Headers, Reply
from router.types import Candidate, Completion, Deployment, Endpoint, Event, InferenceRequest
from router.wire.anthropic.counting import CHANGES, estimated_count

__all__ = ["EstimateAdapter"]


class EstimateAdapter:
    """Answers `count_tokens` in the place of a backend that does not."""

    def speaks(self, endpoint: Endpoint, candidate: Candidate) -> bool:  # noqa: ARG002
        """Return whether an endpoint is one that an estimate can answer."""
        return endpoint == "count_tokens"

    async def send(
        self, request: InferenceRequest, deployment: Deployment, reply_model: str | None, until: float  # noqa: ARG002
    ) -> Reply:
        """Return the estimate; the backend is not asked."""
        return _Estimate(estimated_count(request))


class _Estimate:
    """A reply that is complete from the start; a `Reply`."""

    def __init__(self, completion: Completion) -> None:
        self._left: tuple[Completion, ...] = (completion,)

    @property
    def notes(self) -> Headers:
        """What the client gets to know: that it is an estimate."""
        return ((b"x-router-changes", ", ".join(CHANGES).encode()),)

    async def more(self, until: float) -> Sequence[Event]:  # noqa: ARG002
        """Return the estimate, once."""
        left, self._left = self._left, ()
        return left

    async def pump(self, take: Callable[[Sequence[Event]], bool], idle: float, ends: float) -> bool:  # noqa: ARG002
        """Hand on the estimate, once."""
        if left := await self.more(ends):
            take(left)
        return True

    async def close(self) -> None:
        """Do nothing: nobody was asked."""
