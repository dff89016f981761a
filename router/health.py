"""What is known of each deployment: breaker, time to first token, requests in flight."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from msgspec import structs

from router.types import Breaker, Deployment, DeploymentHealth
from shared.errors import ServiceError, UpstreamError, UpstreamOverloaded, UpstreamRateLimited, UpstreamUnauthorized

__all__ = ["HealthBoard"]

_ALPHA = 0.2
"""Weight of the newest sample in the moving averages."""
_MEMORY = 60.0
"""Seconds after which an average without a new sample is forgotten: a deployment that a limit keeps
away for its slowness would never be measured again."""
_LONGEST = 3600.0
"""The most seconds that a backend may ask to be left alone."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Record:
    public: DeploymentHealth = field(default_factory=DeploymentHealth)
    failures: int = 0
    open_until: float | None = None
    """None while closed; once it has passed, one request may probe."""
    probe: int | None = None
    """The ticket of the request that probes."""


class HealthBoard:
    """Keeps the health of deployments; one writer (the event loop), readers see frozen records.

    The breaker of a deployment opens after a number of upstream faults in a row, or at once when
    the backend's rate limit says how long to stay away. After its cooldown one request probes; a
    good answer closes it, a bad one opens it again. What requests from before the opening come to
    during the cooldown does not close it.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._public: dict[str, DeploymentHealth] = {}
        self._open: dict[str, float] = {}
        self._sampled: OrderedDict[str, float] = OrderedDict()
        self._tickets = 0
        self._view: Mapping[str, DeploymentHealth] = MappingProxyType(self._public)

    def snapshot(self) -> Mapping[str, DeploymentHealth]:
        """Return the health of every deployment tried so far; valid until the next await."""
        now = self._clock()
        for name, until in list(self._open.items()):
            if until <= now:
                del self._open[name]
                self._publish(name, available=True, reason="")
        while self._sampled:
            name, sampled = next(iter(self._sampled.items()))
            if sampled + _MEMORY > now:
                break
            del self._sampled[name]
            self._publish(name, first_token_ms=None, failure_rate=0.0)
        return self._view

    def begin(self, deployment: Deployment) -> int:
        """Note that a request goes out to a deployment.

        Returns:
            The request's ticket, for `end`.
        """
        record = self._record(deployment.id)
        self._tickets += 1
        changes: dict[str, object] = {"in_flight": record.public.in_flight + 1}
        if record.open_until is not None and record.probe is None and record.open_until <= self._clock():
            record.probe = self._tickets
            self._open.pop(deployment.id, None)
            changes |= {"available": False, "reason": "a probe is under way"}
        self._publish(deployment.id, **changes)
        return self._tickets

    def end(self, deployment: Deployment, ticket: int | None = None) -> None:
        """Note that a request has left a deployment, whatever became of it.

        Args:
            deployment: Where it was.
            ticket: What `begin` returned; without it the request is taken for the probe, if one
                is under way.
        """
        record = self._record(deployment.id)
        changes: dict[str, object] = {"in_flight": max(0, record.public.in_flight - 1)}
        if record.probe is not None and ticket in (None, record.probe):
            # Neither a success nor a failure was told: the client left. Let the next request probe.
            record.probe = None
            changes |= {"available": True, "reason": ""}
        self._publish(deployment.id, **changes)

    def succeed(self, deployment: Deployment, first_token_ms: float | None) -> None:
        """Note a good answer; closes the breaker.

        Args:
            deployment: Where it came from.
            first_token_ms: How long its first token took; None where only the whole answer shows.
        """
        self.settle_probe(deployment)
        public = self._record(deployment.id).public
        averages = {"failure_rate": public.failure_rate * (1 - _ALPHA)}
        if first_token_ms is not None:
            old = public.first_token_ms
            averages["first_token_ms"] = first_token_ms if old is None else old + _ALPHA * (first_token_ms - old)
        self._sample(deployment.id, **averages)

    def fail(self, deployment: Deployment, error: ServiceError) -> None:
        """Note a failed attempt; only faults of the upstream count against it.

        A full queue is no fault: it says nothing but that there is no room now.
        """
        if isinstance(error, UpstreamOverloaded):
            return
        if not (isinstance(error, UpstreamError) and error.retryable):
            self.settle_probe(deployment)
            return
        record = self._record(deployment.id)
        record.failures += 1
        rate = record.public.failure_rate
        self._sample(deployment.id, failure_rate=rate + _ALPHA * (1 - rate))
        breaker = deployment.backend.breaker
        if not breaker.enabled:
            self._close(deployment.id, record)
            return
        wait = self._cooldown(record, breaker, error)
        if wait is None:
            return
        newly = record.open_until is None
        record.open_until = max(self._clock() + wait, record.open_until or 0.0)
        record.probe = None
        self._open[deployment.id] = record.open_until
        self._publish(deployment.id, available=False, reason=f"breaker open after {error.code}")
        if newly or isinstance(error, UpstreamUnauthorized):
            fields = {"deployment": deployment.id, "error": error.message, "seconds": round(wait, 1)}
            _log.warning("deployment is left alone", extra={"fields": fields})

    def settle_probe(self, deployment: Deployment) -> None:
        """Close the breaker of a deployment that answered, if only to refuse the request."""
        record = self._record(deployment.id)
        if record.open_until is not None:
            if record.open_until > self._clock():
                return  # a request from before the opening; the backend asked for, or needs, its rest
            _log.info("deployment is back", extra={"fields": {"deployment": deployment.id}})
        self._close(deployment.id, record)

    def _close(self, name: str, record: _Record) -> None:
        record.failures, record.open_until, record.probe = 0, None, None
        self._open.pop(name, None)
        self._publish(name, available=True, reason="")

    def _cooldown(self, record: _Record, breaker: Breaker, error: ServiceError) -> float | None:
        """Return how long to leave the deployment alone, or None to keep it."""
        opens = record.failures >= breaker.failures or record.open_until is not None
        wait = breaker.cooldown if opens or isinstance(error, UpstreamUnauthorized) else None
        if isinstance(error, UpstreamRateLimited) and error.retry_after is not None:
            return max(min(error.retry_after, _LONGEST), wait or 0.0)
        return wait

    def _record(self, name: str) -> _Record:
        return self._records.setdefault(name, _Record())

    def _sample(self, name: str, **averages: float) -> None:
        self._sampled[name] = self._clock()
        self._sampled.move_to_end(name)
        self._publish(name, **averages)

    def _publish(self, name: str, **changes: object) -> None:
        record = self._record(name)
        record.public = structs.replace(record.public, **changes)
        self._public[name] = record.public
