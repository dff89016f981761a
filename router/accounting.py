"""Accounting: a meter observes one answer's events, and settles once what it came to."""

from __future__ import annotations

import logging
import math
import time
from decimal import Decimal
from urllib.parse import quote

from msgspec import Struct

from router.interfaces import Headers, UsageSink
from router.metrics import RouterMetrics
from router.tracing import Span
from router.trail import Trail
from router.types import CacheState, Chunk, Event, InferenceRequest, Outcome, Privacy, Usage
from shared.ids import IdSource

__all__ = ["Ledger", "Meter", "log_fields"]

Pairs = list[tuple[bytes, bytes]]
"""Headers as they are sent."""

_log = logging.getLogger(__name__)
_BYTES_PER_TOKEN = 4
_HEADER_SAFE = "/:@.+ "
_NAMES_KEPT = 1024
_NO_TOKENS = ("audio", "images")
"""Endpoints whose answers are not text: their length says nothing about tokens."""
_FREE = Decimal(0)
_ATTEMPTS = tuple((b"x-router-attempts", b"%d" % number) for number in range(10))
_CACHE: dict[CacheState, tuple[bytes, bytes]] = {
    "hit": (b"x-router-cache", b"hit"),
    "miss": (b"x-router-cache", b"miss"),
    "off": (b"x-router-cache", b"off"),
}


class Meter(Struct):
    """Observes one request from its admission to its end.

    Args:
        request: The request.
        trail: What dispatching leaves behind.
        decision_id: The id of its decision.
        names: Headers of models and backends that were made before; see `Ledger`.
    """

    request: InferenceRequest
    trail: Trail
    decision_id: str
    names: dict[tuple[str | None, str | None], Pairs]
    policy: str | None = None
    privacy: Privacy = "any"
    """How far the content may travel, by the request's own wish and the policy's constraint."""
    known: bool = False
    """Whether the model asked for exists; an invented name must not become a metric's label."""
    model: str | None = None
    backend: str | None = None
    cache: CacheState = "off"
    status: int = 200
    error: str | None = None
    usage: Usage | None = None
    complete: bool = False
    """Whether the whole answer has been handed to the client's connection."""
    settled: bool = False
    output_bytes: int = 0
    span: Span | None = None
    """Its trace, where it is sampled."""
    notes: Headers = ()
    """What the backend's answer says besides; see `Reply.notes`."""
    priced: Usage | None = None
    """What `price` is the cost of."""
    price: Decimal | None = None

    def observe(self, event: Event) -> None:
        """Look at one event on its way to the client."""
        usage = event.usage
        if usage is not None:
            self.usage = usage
        if isinstance(event, Chunk):
            if event.output:
                self.output_bytes += len(event.raw)
            if event.done:
                self.complete = True
        else:
            self.complete = True
            self.output_bytes += len(event.body)

    def outcome(self, now: float) -> Outcome:
        """Return what the request came to, as of `now` (`time.perf_counter` seconds)."""
        trail, request = self.trail, self.request
        usage = self.usage if self.usage is not None else self._estimate()
        started, first = trail.started, trail.first_token
        sent = trail.first_sent if trail.first_sent is not None else now
        # By position: by name it takes twice as long. `round` takes four times as long as the arithmetic.
        return Outcome(
            request.id,
            self.decision_id,
            request.caller,
            request.endpoint,
            request.model,
            self.policy,
            trail.deployment,
            self.status,
            self.error,
            request.stream,
            self.cache,
            usage,
            self._cost(usage),
            tuple(trail.attempts),
            None if first is None else int((first - started) * 100_000 + 0.5) / 100,
            int((now - started) * 100_000 + 0.5) / 100,
            int((sent - started) * 1_000_000 + 0.5) / 1000,
        )

    def early_head(self) -> Pairs:
        """Return those headers that are true before anybody has answered."""
        return [(b"x-router-decision-id", self.decision_id.encode())]

    def head(self, now: float) -> Pairs:
        """Return the headers in which every answer speaks of itself, as of `now`, ready to be sent."""
        trail = self.trail
        sent = trail.first_sent if trail.first_sent is not None else now
        attempts = len(trail.attempts)
        pairs = [
            (b"x-router-decision-id", self.decision_id.encode()),
            _ATTEMPTS[attempts] if attempts < len(_ATTEMPTS) else (b"x-router-attempts", b"%d" % attempts),
            _CACHE[self.cache],
            (b"x-router-overhead-ms", b"%.2f" % ((sent - trail.started) * 1000)),
        ]
        names = self.names.get((self.model, self.backend))
        pairs += self._name() if names is None else names
        cost = self._cost(self.usage)
        if cost is not None:
            pairs.append((b"x-router-cost-usd", f"{cost.normalize():f}".encode()))
        if self.notes:
            pairs += self.notes
        return pairs

    def _name(self) -> Pairs:
        """Return the headers that name model and backend, and keep them for the next requests."""
        pairs = []
        # Names may hold any character, a header may not.
        if self.model is not None:
            pairs.append((b"x-router-model", quote(self.model, safe=_HEADER_SAFE, errors="replace").encode()))
        if self.backend is not None:
            pairs.append((b"x-router-backend", quote(self.backend, safe=_HEADER_SAFE, errors="replace").encode()))
        if len(self.names) >= _NAMES_KEPT:
            self.names.clear()
        self.names[self.model, self.backend] = pairs
        return pairs

    def _cost(self, usage: Usage | None) -> Decimal | None:
        if self.cache == "hit":
            return _FREE
        deployment = self.trail.deployment
        if deployment is None or usage is None:
            return None
        if usage is not self.priced:
            self.priced, self.price = usage, deployment.price.cost(usage)
        return self.price

    def _estimate(self) -> Usage | None:
        """Return an estimate where output was delivered and the backend reported nothing."""
        if self.trail.first_token is None or self.cache == "hit":
            return None
        if self.request.endpoint in _NO_TOKENS:
            return None
        # A chunk is mostly its envelope: about 200 bytes carry one token.
        completion = 0 if self.request.endpoint == "embeddings" else math.ceil(self.output_bytes / 200)
        return Usage(math.ceil(self.request.text_bytes / _BYTES_PER_TOKEN), completion, source="estimated")


class Ledger:
    """Settles outcomes: the usage row, the metrics, and the fields of the log line.

    Args:
        sink: Takes the usage rows.
        metrics: The router's metrics.
    """

    def __init__(self, sink: UsageSink, metrics: RouterMetrics) -> None:
        self._sink = sink
        self._metrics = metrics
        self._make_id = IdSource("dec_").make
        self._names: dict[tuple[str | None, str | None], Pairs] = {}

    def open(self, request: InferenceRequest, started: float) -> Meter:
        """Return the meter of a request that came in at `started` (`time.perf_counter` seconds)."""
        self._metrics.counts.in_flight += 1
        return Meter(request, Trail(started), self._make_id(), self._names)

    def settle(self, meter: Meter) -> Outcome | None:
        """Account for a request; only the first call does anything."""
        if meter.settled:
            return None
        meter.settled = True
        self._metrics.counts.in_flight -= 1
        outcome = meter.outcome(time.perf_counter())
        if meter.span is not None:
            meter.span.end(outcome)
        try:
            self._sink.write(outcome)
            self._metrics.count(outcome, outcome.asked if meter.known else "unknown")
        except Exception:  # noqa: BLE001 - an answer is never lost to its accounting
            _log.exception("an outcome could not be accounted", extra={"fields": {"request_id": outcome.request_id}})
        return outcome


def log_fields(outcome: Outcome) -> dict[str, object]:
    """Return what the access log line says of an inference request; never its text."""
    return {
        "caller": outcome.caller.id,
        "model": outcome.asked,
        "deployment": outcome.deployment.id if outcome.deployment else None,
        "attempts": len(outcome.attempts),
        "cache": outcome.cache,
        "error": outcome.error,
        "prompt_tokens": outcome.usage.prompt_tokens if outcome.usage else None,
        "completion_tokens": outcome.usage.completion_tokens if outcome.usage else None,
        "cost_usd": None if outcome.cost_usd is None else f"{outcome.cost_usd.normalize():f}",
        "first_token_ms": outcome.first_token_ms,
    }
