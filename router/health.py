"""What is known of each deployment: breaker, time to first token, requests in flight."""

from __future__ import annotations

import logging
import math
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from types import MappingProxyType

from router.types import Breaker, Deployment, DeploymentHealth
from shared.errors import (
    ServiceError,
    UpstreamError,
    UpstreamLacksModel,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamStarting,
    UpstreamUnauthorized,
)

__all__ = ["HealthBoard"]

_ALPHA = 0.2
"""Weight of the newest sample in the moving averages."""
_MEMORY = 60.0
"""Seconds after which an average without a new sample is forgotten: a deployment that a limit keeps
away for its slowness would never be measured again."""
_LONGEST = 3600.0
"""The most seconds that a backend may ask to be left alone."""
_WAITS = 128
"""Waits for a first token that are remembered; a power of two."""
_FEW = 20
"""Waits before which nothing is said of how long most take."""
_OFTEN = 8
"""New waits after which that is worked out again."""
_FULL = 1.0
"""Seconds for which a full queue is taken to stay full, where the backend does not say."""
_LOOK_AGAIN = 30.0
"""Seconds between two looks at a cluster that is starting, while somebody else answers in its place."""
_BACKLOG = 16_384
"""Changes that are remembered at least; who is further behind looks at every deployment."""
_log = logging.getLogger(__name__)


class _Record:
    """One deployment's state, changed in place: three calls a request cannot afford a new value each."""

    __slots__ = (
        "available",
        "failure_rate",
        "failures",
        "first_token_ms",
        "full_until",
        "id",
        "in_flight",
        "logged",
        "open_until",
        "probe",
        "reason",
        "sampled",
        "slow_ms",
        "slow_of",
        "timed",
        "waited",
        "waits",
    )

    def __init__(self, name: str) -> None:
        self.id = name
        self.available = True
        self.reason = ""
        self.in_flight = 0
        self.first_token_ms: float | None = None
        self.failure_rate = 0.0
        self.failures = 0
        self.open_until: float | None = None
        """None while closed; once it has passed, one request may probe."""
        self.probe: int | None = None
        """The ticket of the request that probes."""
        self.sampled = 0.0
        """When the averages had their last sample."""
        self.timed = False
        """Whether a timer waits to forget the averages."""
        self.logged = 0
        """The revision under which the last change was logged."""
        self.full_until = 0.0
        """Until when its queue is taken to be full."""
        self.waits = array("f")
        """The last waits for a first token, in milliseconds, in no order."""
        self.waited = 0
        """How many there have been."""
        self.slow_ms = 0.0
        """What 95 of 100 of them did not exceed, when there had been `slow_of`."""
        self.slow_of = 0

    def wait(self, first_token_ms: float) -> None:
        """Remember a wait for a first token in place of the oldest."""
        waited = self.waited
        if waited < _WAITS:
            self.waits.append(first_token_ms)
        else:
            self.waits[waited & (_WAITS - 1)] = first_token_ms
        self.waited = waited + 1

    def slow(self) -> float | None:
        """Return the wait that 95 of 100 did not exceed, or None where there were too few to say."""
        if self.waited < _FEW:
            return None
        if not self.slow_of or self.waited - self.slow_of >= _OFTEN:
            waits = sorted(self.waits)
            self.slow_ms = waits[-(len(waits) // 20) - 1]
            self.slow_of = self.waited
        return self.slow_ms

    def publish(self) -> DeploymentHealth:
        """Return a frozen copy of what others may know."""
        return DeploymentHealth(self.available, self.reason, self.in_flight, self.first_token_ms, self.failure_rate)


class HealthBoard:
    """Keeps the health of deployments; one writer (the event loop), readers see frozen records.

    The breaker of a deployment opens after a number of upstream faults in a row, or at once when
    the backend's rate limit says how long to stay away. After its cooldown one request probes; a
    good answer closes it, a bad one opens it again. What requests from before the opening come to
    during the cooldown does not close it.

    It is also a `HealthFeed`: every change gets a revision and enters a bounded log, so that a
    reader that comes back looks only at what changed. A deployment that changes several times
    between two readings is logged once.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.starting: dict[str, float] = {}
        """Deployments of clusters that had no server when they were last asked, and when to look again."""
        self._records: dict[str, _Record] = {}
        self._resting: dict[str, _Record] = {}
        """Open breakers whose cooldown nobody has seen end."""
        self._timers: list[tuple[float, str]] = []
        """A heap of when to look whether a deployment's averages are too old."""
        self._due = math.inf
        """When time alone changes something; nothing does before."""
        self._tickets = 0
        self._log: list[_Record] = []
        self._dropped = 0
        self._revision = 0
        self._read = 0
        """The revision that some reader has seen."""

    def snapshot(self) -> Mapping[str, DeploymentHealth]:
        """Return the health of every deployment tried so far, at this moment."""
        if self._clock() >= self._due:
            self._expire(self._clock())
        return MappingProxyType({name: record.publish() for name, record in self._records.items()})

    def news(self, since: int, most: int) -> tuple[int, Sequence[_Record] | None]:
        """Return the number of the last change, and what changed after the change `since`; see `HealthFeed`."""
        if self._clock() >= self._due:
            self._expire(self._clock())
        revision = self._read = self._revision
        if revision == since:
            return revision, ()
        if since < self._dropped or revision - since > most:
            return revision, None
        return revision, self._log[since - self._dropped :]

    def state(self, deployment: str) -> _Record | None:
        """Return the state of a deployment, or None where it was never tried. It changes in place."""
        return self._records.get(deployment)

    def begin(self, deployment: Deployment) -> int:
        """Note that a request goes out to a deployment.

        Returns:
            The request's ticket, for `end`.
        """
        record = self._records.get(deployment.id) or self._record(deployment.id)
        self._tickets += 1
        record.in_flight += 1
        if record.open_until is not None and record.probe is None and record.open_until <= self._clock():
            record.probe = self._tickets
            record.available, record.reason = False, "a probe is under way"
            self._resting.pop(record.id, None)
        if record.logged <= self._read:
            self._note(record)
        return self._tickets

    def end(self, deployment: Deployment, ticket: int | None = None) -> None:
        """Note that a request has left a deployment, whatever became of it.

        Args:
            deployment: Where it was.
            ticket: What `begin` returned; without it the request is taken for the probe, if one
                is under way.
        """
        record = self._records.get(deployment.id) or self._record(deployment.id)
        if record.in_flight:
            record.in_flight -= 1
        if record.probe is not None and (ticket is None or ticket == record.probe):
            # Neither a success nor a failure was told: the client left. Let the next request probe.
            record.probe = None
            record.available, record.reason = True, ""
        if record.logged <= self._read:
            self._note(record)

    def succeed(self, deployment: Deployment, first_token_ms: float | None) -> None:
        """Note a good answer; closes the breaker.

        Args:
            deployment: Where it came from.
            first_token_ms: How long its first token took; None where only the whole answer shows.
        """
        record = self._records.get(deployment.id) or self._record(deployment.id)
        if self.starting:
            self.starting.pop(deployment.id, None)
        if record.open_until is None:
            record.failures = 0
        else:
            self.settle_probe(deployment)
        if record.failure_rate:
            record.failure_rate *= 1 - _ALPHA
        if first_token_ms is not None:
            old = record.first_token_ms
            record.first_token_ms = first_token_ms if old is None else old + _ALPHA * (first_token_ms - old)
            record.wait(first_token_ms)
        record.sampled = self._clock()
        if not record.timed:
            self._time(record)
        if record.logged <= self._read:
            self._note(record)

    def fail(self, deployment: Deployment, error: ServiceError) -> None:
        """Note a failed attempt; only faults of the upstream count against it.

        A full queue is no fault: it says nothing but that there is no room now. Nor is a cluster that has scaled to
        zero: it starts when it is asked.
        """
        if isinstance(error, UpstreamStarting) and deployment.backend.tier == "cluster":
            self.starting[deployment.id] = self._clock() + _LOOK_AGAIN
            self._close(self._record(deployment.id))
            return
        if isinstance(error, UpstreamOverloaded):
            full = _FULL if error.retry_after is None else min(error.retry_after, _LONGEST)
            self._record(deployment.id).full_until = self._clock() + full
            return
        if not (isinstance(error, UpstreamError) and error.retryable):
            self.settle_probe(deployment)
            return
        record = self._record(deployment.id)
        record.failures += 1
        record.failure_rate += _ALPHA * (1 - record.failure_rate)
        record.sampled = self._clock()
        if not record.timed:
            self._time(record)
        self._note(record)
        breaker = deployment.backend.breaker
        if not breaker.enabled:
            self._close(record)
            return
        wait = self._cooldown(record, breaker, error)
        if wait is None:
            return
        newly = record.open_until is None
        record.open_until = max(self._clock() + wait, record.open_until or 0.0)
        record.probe = None
        record.available, record.reason = False, f"breaker open after {error.code}"
        self._resting[record.id] = record
        self._due = min(self._due, record.open_until)
        if newly or isinstance(error, UpstreamUnauthorized):
            fields = {"deployment": deployment.id, "error": error.message, "seconds": round(wait, 1)}
            _log.warning("deployment is left alone", extra={"fields": fields})

    def slow_ms(self, deployment: Deployment) -> float | None:
        """Return the time in which 95 of 100 streams of a deployment began, or None before there were 20."""
        record = self._records.get(deployment.id)
        return None if record is None else record.slow()

    def outwaited(self, deployment: Deployment, waited_ms: float) -> None:
        """Note a stream that was given up, through no fault, before it began.

        It would have taken longer than that: where this is long, leaving it out would make the deployment
        look faster than it is.
        """
        slow = self.slow_ms(deployment)
        if slow is None or waited_ms >= slow:
            self._record(deployment.id).wait(waited_ms)

    def back_in(self, deployments: Iterable[str]) -> float | None:
        """Return the seconds until the first of some deployments may be tried again; None where none rests."""
        records = [record for name in deployments if (record := self._records.get(name)) is not None]
        ends = [record.open_until for record in records if record.open_until is not None]
        return max(0.0, min(ends) - self._clock()) if ends else None

    def spare(self, deployment: Deployment) -> bool:
        """Return whether a deployment is well and has not just said that it is full, as far as is known."""
        record = self._records.get(deployment.id)
        if record is None:
            return True
        if deployment.id in self.starting:
            return False
        return record.available and record.open_until is None and record.full_until <= self._clock()

    def look_again(self, deployment: Deployment) -> bool:
        """Return whether it is time to ask a cluster that was starting, though somebody else could answer.

        One request does, and wakes it by that; for all others it is as it was.
        """
        if self.starting.get(deployment.id, math.inf) > self._clock():
            return False
        self.starting[deployment.id] = self._clock() + _LOOK_AGAIN
        return True

    def settle_probe(self, deployment: Deployment) -> None:
        """Close the breaker of a deployment that answered, if only to refuse the request."""
        record = self._record(deployment.id)
        if record.open_until is not None:
            if record.open_until > self._clock():
                return  # a request from before the opening; the backend asked for, or needs, its rest
            _log.info("deployment is back", extra={"fields": {"deployment": deployment.id}})
        self._close(record)

    def _close(self, record: _Record) -> None:
        record.failures, record.open_until, record.probe = 0, None, None
        record.available, record.reason = True, ""
        self._resting.pop(record.id, None)
        self._note(record)

    def _cooldown(self, record: _Record, breaker: Breaker, error: ServiceError) -> float | None:
        """Return how long to leave the deployment alone, or None to keep it."""
        opens = record.failures >= breaker.failures or record.open_until is not None
        wait = breaker.cooldown if opens or isinstance(error, (UpstreamUnauthorized, UpstreamLacksModel)) else None
        if isinstance(error, UpstreamRateLimited) and error.retry_after is not None:
            return max(min(error.retry_after, _LONGEST), wait or 0.0)
        return wait

    def _record(self, name: str) -> _Record:
        record = self._records.get(name)
        if record is None:
            record = self._records[name] = _Record(name)
        return record

    def _note(self, record: _Record) -> None:
        """Log that a record has changed, unless it is logged already and nobody has read that."""
        if record.logged > self._read:
            return
        self._revision += 1
        record.logged = self._revision
        self._log.append(record)
        if len(self._log) >= 2 * _BACKLOG:
            del self._log[:_BACKLOG]
            self._dropped += _BACKLOG

    def _time(self, record: _Record) -> None:
        """Look at a record's averages when its newest sample, as it is now, is too old."""
        record.timed = True
        heappush(self._timers, (record.sampled + _MEMORY, record.id))
        self._due = min(self._due, record.sampled + _MEMORY)

    def _expire(self, now: float) -> None:
        """Make the changes that time brings: cooldowns end, averages are forgotten."""
        for record in list(self._resting.values()):
            if record.open_until is not None and record.open_until <= now:
                del self._resting[record.id]
                record.available, record.reason = True, ""
                self._note(record)
        timers = self._timers
        while timers and timers[0][0] <= now:
            record = self._records[heappop(timers)[1]]
            if record.sampled + _MEMORY > now:
                self._time(record)
                continue
            record.timed = False
            record.first_token_ms, record.failure_rate = None, 0.0
            self._note(record)
        rests = (record.open_until for record in self._resting.values() if record.open_until is not None)
        self._due = min(min(rests, default=math.inf), timers[0][0] if timers else math.inf)
