"""The trail of one request: what dispatching notes down and accounting reads."""

from __future__ import annotations

from msgspec import Struct, field

from router.types import Attempt, Deployment

__all__ = ["Trail"]


class Trail(Struct):
    """What dispatching left behind, also where it failed.

    Times are `time.perf_counter` seconds.
    """

    started: float
    attempts: list[Attempt] = field(default_factory=list)
    deployment: Deployment | None = None
    first_sent: float | None = None
    first_token: float | None = None

    def note(self, deployment: Deployment, begun: float, now: float, error: str | None) -> None:
        """Add one attempt that ended at `now`, or came to its commit point then."""
        started_ms, duration_ms = (begun - self.started) * 1000, (now - begun) * 1000
        self.attempts.append(Attempt(deployment.id, round(started_ms, 2), round(duration_ms, 2), error))
