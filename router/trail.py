"""The trail of one request: what dispatching notes down and accounting reads."""

from __future__ import annotations

from msgspec import Struct, field

from router.types import Attempt, Deployment
from shared.errors import UpstreamStarting

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
        """Add one attempt that ended at `now`, or came to its commit point then.

        One after another at a model that is starting are one attempt, as long as all of them: a wait.
        """
        if error == UpstreamStarting.code and self.attempts:
            last = self.attempts[-1]
            if (last.deployment, last.error) == (deployment.id, error):
                begun = self.started + self.attempts.pop().started_ms / 1000
        # `round` takes four times as long as the arithmetic.
        started_ms = int((begun - self.started) * 100_000 + 0.5) / 100
        duration_ms = int((now - begun) * 100_000 + 0.5) / 100
        self.attempts.append(Attempt(deployment.id, started_ms, duration_ms, error))
