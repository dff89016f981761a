"""Accounting: a meter observes one answer's events, and settles once what it came to."""

from __future__ import annotations

import logging
import math
import secrets
import time
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import quote

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from router.interfaces import UsageSink
from router.trail import Trail
from router.types import CacheState, Completion, Event, InferenceRequest, Outcome, Usage

__all__ = ["Ledger", "Meter", "RouterMetrics", "log_fields"]

_log = logging.getLogger(__name__)
_BYTES_PER_TOKEN = 4
_HEADER_SAFE = "/:@.+ "


class RouterMetrics:
    """The router's Prometheus metrics.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "router_requests_total",
            "Inference requests by model asked for, backend, status and cache state.",
            ["model", "backend", "status", "cache"],
            registry=registry,
        )
        self.attempts = Counter(
            "router_attempts_total",
            "Attempts at deployments by backend and result (`ok` or an error code).",
            ["backend", "result"],
            registry=registry,
        )
        self.tokens = Counter(
            "router_tokens_total",
            "Tokens by model, backend and kind (`prompt`, `cached`, `completion`).",
            ["model", "backend", "kind"],
            registry=registry,
        )
        self.cost = Counter(
            "router_cost_usd_total", "Known cost in USD by model and backend.", ["model", "backend"], registry=registry
        )
        self.duration = Histogram(
            "router_request_duration_seconds",
            "Time from the request's arrival to the end of its answer.",
            ["backend"],
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
            registry=registry,
        )
        self.first_token = Histogram(
            "router_first_token_seconds",
            "Time from the request's arrival to the first output.",
            ["backend"],
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self.overhead = Histogram(
            "router_overhead_seconds",
            "Time spent in the router before the first byte goes to a backend.",
            buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1),
            registry=registry,
        )
        self.in_flight = Gauge("router_in_flight_requests", "Inference requests under way.", registry=registry)


@dataclass(slots=True)
class Meter:
    """Observes one request from its admission to its end.

    Args:
        request: The request.
        trail: What dispatching leaves behind.
    """

    request: InferenceRequest
    trail: Trail
    decision_id: str
    policy: str | None = None
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

    def observe(self, event: Event) -> None:
        """Look at one event on its way to the client."""
        if event.usage is not None:
            self.usage = event.usage
        if isinstance(event, Completion):
            self.complete = True
            self.output_bytes += len(event.body)
        else:
            self.complete = event.done
            if event.output:
                self.output_bytes += len(event.raw)

    def outcome(self, now: float) -> Outcome:
        """Return what the request came to, as of `now` (`time.perf_counter` seconds)."""
        trail, request = self.trail, self.request
        usage = self.usage if self.usage is not None else self._estimate()
        sent = trail.first_sent if trail.first_sent is not None else now
        first = trail.first_token
        return Outcome(
            request_id=request.id,
            decision_id=self.decision_id,
            caller=request.caller,
            endpoint=request.endpoint,
            asked=request.model,
            policy=self.policy,
            deployment=trail.deployment,
            status=self.status,
            error=self.error,
            stream=request.stream,
            cache=self.cache,
            usage=usage,
            cost_usd=self._cost(usage),
            attempts=tuple(trail.attempts),
            first_token_ms=None if first is None else round((first - trail.started) * 1000, 2),
            duration_ms=round((now - trail.started) * 1000, 2),
            overhead_ms=round((sent - trail.started) * 1000, 3),
        )

    def head(self, now: float) -> dict[str, str]:
        """Return the headers in which every answer speaks of itself, as of `now`."""
        trail = self.trail
        sent = trail.first_sent if trail.first_sent is not None else now
        head = {
            "x-router-decision-id": self.decision_id,
            "x-router-attempts": str(len(trail.attempts)),
            "x-router-cache": self.cache,
            "x-router-overhead-ms": f"{(sent - trail.started) * 1000:.2f}",
        }
        # Names may hold any character, a header may not.
        if self.model is not None:
            head["x-router-model"] = quote(self.model, safe=_HEADER_SAFE)
        if self.backend is not None:
            head["x-router-backend"] = quote(self.backend, safe=_HEADER_SAFE)
        cost = self._cost(self.usage)
        if cost is not None:
            head["x-router-cost-usd"] = f"{cost.normalize():f}"
        return head

    def _cost(self, usage: Usage | None) -> Decimal | None:
        if self.cache == "hit":
            return Decimal(0)
        deployment = self.trail.deployment
        return None if deployment is None or usage is None else deployment.price.cost(usage)

    def _estimate(self) -> Usage | None:
        """Return an estimate where output was delivered and the backend reported nothing."""
        if self.trail.first_token is None or self.cache == "hit":
            return None
        # A chunk is mostly its envelope: about 200 bytes carry one token.
        completion = math.ceil(self.output_bytes / 200)
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

    def open(self, request: InferenceRequest, started: float) -> Meter:
        """Return the meter of a request that came in at `started` (`time.perf_counter` seconds)."""
        self._metrics.in_flight.inc()
        return Meter(request, Trail(started), f"dec_{secrets.token_hex(12)}")

    def settle(self, meter: Meter) -> Outcome | None:
        """Account for a request; only the first call does anything."""
        if meter.settled:
            return None
        meter.settled = True
        outcome = meter.outcome(time.perf_counter())
        self._metrics.in_flight.dec()
        try:
            self._sink.write(outcome)
            self._count(outcome, outcome.asked if meter.known else "unknown")
        except Exception:  # noqa: BLE001 - an answer is never lost to its accounting
            _log.exception("an outcome could not be accounted", extra={"fields": {"request_id": outcome.request_id}})
        return outcome

    def _count(self, outcome: Outcome, asked: str) -> None:
        metrics = self._metrics
        backend = outcome.deployment.backend.name if outcome.deployment else "none"
        model = outcome.deployment.model if outcome.deployment else asked
        metrics.requests.labels(asked, backend, str(outcome.status), outcome.cache).inc()
        metrics.duration.labels(backend).observe(outcome.duration_ms / 1000)
        metrics.overhead.observe(outcome.overhead_ms / 1000)
        if outcome.first_token_ms is not None:
            metrics.first_token.labels(backend).observe(outcome.first_token_ms / 1000)
        for attempt in outcome.attempts:
            name = attempt.deployment.partition("@")[2].partition("/")[0]
            metrics.attempts.labels(name, attempt.error or "ok").inc()
        if outcome.usage is not None and outcome.cache != "hit":
            metrics.tokens.labels(model, backend, "prompt").inc(outcome.usage.prompt_tokens)
            metrics.tokens.labels(model, backend, "cached").inc(outcome.usage.cached_tokens)
            metrics.tokens.labels(model, backend, "completion").inc(outcome.usage.completion_tokens)
        if outcome.cost_usd:
            metrics.cost.labels(model, backend).inc(float(outcome.cost_usd))


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
