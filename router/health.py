"""What is known of each deployment: breaker, time to first token, requests in flight."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from router.types import Breaker, Deployment, DeploymentHealth
from shared.errors import ServiceError, UpstreamError, UpstreamRateLimited, UpstreamUnauthorized

__all__ = ["HealthBoard"]

_ALPHA = 0.2
"""Weight of the newest sample in the moving averages."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Record:
    public: DeploymentHealth = field(default_factory=DeploymentHealth)
    failures: int = 0
    open_until: float | None = None
    probing: bool = False


class HealthBoard:
    """Keeps the health of deployments; one writer (the event loop), readers see frozen records.

    The breaker of a deployment opens after a number of upstream faults in a row, or at once when
    the backend says how long to stay away. After its cooldown one request probes; a good answer
    closes it, a bad one opens it again.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._public: dict[str, DeploymentHealth] = {}
        self._open: dict[str, float] = {}
        self._view: Mapping[str, DeploymentHealth] = MappingProxyType(self._public)

    def snapshot(self) -> Mapping[str, DeploymentHealth]:
        """Return the health of every deployment tried so far; valid until the next await."""
        if self._open:
            now = self._clock()
            for name, until in list(self._open.items()):
                if until <= now:
                    del self._open[name]
                    self._publish(name, available=True, reason="")
        return self._view

    def begin(self, deployment: Deployment) -> None:
        """Note that a request goes out to a deployment."""
        record = self._record(deployment.id)
        changes: dict[str, object] = {"in_flight": record.public.in_flight + 1}
        if record.open_until is not None and not record.probing:
            record.probing = True
            changes |= {"available": False, "reason": "a probe is under way"}
        self._publish(deployment.id, **changes)

    def end(self, deployment: Deployment) -> None:
        """Note that a request has left a deployment, whatever became of it."""
        record = self._record(deployment.id)
        changes: dict[str, object] = {"in_flight": max(0, record.public.in_flight - 1)}
        if record.probing:
            # Neither a success nor a failure was told: the client left. Let the next request probe.
            record.probing = False
            changes |= {"available": True, "reason": ""}
        self._publish(deployment.id, **changes)

    def succeed(self, deployment: Deployment, first_token_ms: float) -> None:
        """Note a good answer; closes the breaker."""
        record = self._record(deployment.id)
        if record.open_until is not None:
            _log.info("deployment is back", extra={"fields": {"deployment": deployment.id}})
        record.failures, record.open_until, record.probing = 0, None, False
        self._open.pop(deployment.id, None)
        old = record.public.first_token_ms
        average = first_token_ms if old is None else old + _ALPHA * (first_token_ms - old)
        rate = record.public.failure_rate * (1 - _ALPHA)
        self._publish(deployment.id, available=True, reason="", first_token_ms=average, failure_rate=rate)

    def fail(self, deployment: Deployment, error: ServiceError) -> None:
        """Note a failed attempt; only faults of the upstream count against it."""
        if not (isinstance(error, UpstreamError) and error.retryable):
            self.settle_probe(deployment)
            return
        record = self._record(deployment.id)
        record.failures += 1
        rate = record.public.failure_rate + _ALPHA * (1 - record.public.failure_rate)
        self._publish(deployment.id, failure_rate=rate)
        wait = self._cooldown(record, deployment.backend.breaker, error)
        if wait is None:
            return
        newly = record.open_until is None
        record.open_until = self._clock() + wait
        record.probing = False
        self._open[deployment.id] = record.open_until
        self._publish(deployment.id, available=False, reason=f"breaker open after {error.code}")
        if newly or isinstance(error, UpstreamUnauthorized):
            fields = {"deployment": deployment.id, "error": error.message, "seconds": round(wait, 1)}
            _log.warning("deployment is left alone", extra={"fields": fields})

    def settle_probe(self, deployment: Deployment) -> None:
        """Close the breaker of a deployment that answered, if only to refuse the request."""
        record = self._record(deployment.id)
        record.failures, record.open_until, record.probing = 0, None, False
        self._open.pop(deployment.id, None)
        self._publish(deployment.id, available=True, reason="")

    def _cooldown(self, record: _Record, breaker: Breaker, error: ServiceError) -> float | None:
        """Return how long to leave the deployment alone, or None to keep it."""
        if not breaker.enabled:
            return None
        if isinstance(error, UpstreamRateLimited) and error.retry_after is not None:
            return min(error.retry_after, 3600.0)
        opens = record.failures >= breaker.failures or record.open_until is not None
        return breaker.cooldown if opens or isinstance(error, UpstreamUnauthorized) else None

    def _record(self, name: str) -> _Record:
        return self._records.setdefault(name, _Record())

    def _publish(self, name: str, **changes: object) -> None:
        record = self._record(name)
        record.public = replace(record.public, **changes)  # type: ignore[arg-type]
        self._public[name] = record.public
