"""Spans in OpenTelemetry's SDK, exported over OTLP/HTTP by its own thread; never a prompt, never an answer.

Names of attributes: OpenTelemetry's semantic conventions for generative AI; `router.*` are our own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from router.types import Attempt, Deployment, Outcome

__all__ = ["OtelSpan", "OtelTracer", "attempt_attributes", "request_attributes"]

_log = logging.getLogger(__name__)
_NANOSECONDS = 1_000_000
_EXPORT_SECONDS = 5.0
_NOTHING = Context()
_propagator = TraceContextTextMapPropagator()


class OtelSpan:
    """The spans of one sampled request: one for the request, and one for each attempt at a backend.

    Args:
        tracer: Makes them.
        parent: The caller's context.
    """

    __slots__ = ("_begun", "_span", "_tracer")

    def __init__(self, tracer: trace.Tracer, parent: Context) -> None:
        self._tracer = tracer
        self._begun = time.time_ns()
        self._span = tracer.start_span("request", parent, SpanKind.SERVER, start_time=self._begun)

    @property
    def traceparent(self) -> str:
        """The header for backends."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def end(self, outcome: Outcome) -> None:
        """End the span with what the request came to."""
        try:
            self._end(outcome)
        except Exception:  # noqa: BLE001 - an answer is never lost to its trace
            _log.exception("a request could not be traced", extra={"fields": {"request_id": outcome.request_id}})

    def _end(self, outcome: Outcome) -> None:
        span, begun = self._span, self._begun
        inside = trace.set_span_in_context(span, _NOTHING)
        for attempt in outcome.attempts:
            start = begun + int(attempt.started_ms * _NANOSECONDS)
            child = self._tracer.start_span(
                f"{outcome.endpoint} {attempt.deployment}",
                inside,
                SpanKind.CLIENT,
                attempt_attributes(attempt, outcome),
                start_time=start,
            )
            if attempt.error is not None:
                child.set_status(Status(StatusCode.ERROR, attempt.error))
            child.end(start + int(attempt.duration_ms * _NANOSECONDS))
        span.update_name(f"{outcome.endpoint} {outcome.asked}")
        span.set_attributes(request_attributes(outcome))
        if outcome.status >= 500:  # a caller's own mistake is no failure of this service
            span.set_status(Status(StatusCode.ERROR, outcome.error))
        span.end(begun + int(outcome.duration_ms * _NANOSECONDS))


class OtelTracer:
    """A `Tracer` that exports over OTLP/HTTP.

    No provider is made the process's own: a library that finds one would trace every request by itself.

    Args:
        endpoint: The collector's base URL.
        service: The service's name in traces.
        sampled: Decides from the client's `traceparent` whether a request is traced.
    """

    def __init__(self, endpoint: str, service: str, sampled: Callable[[str | None], bool]) -> None:
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_SECONDS)
        # The decision is made before a span is, so the SDK's own sampler has nothing left to refuse.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create({"service.name": service}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("router")
        self._sampled = sampled

    def begin(self, traceparent: str | None) -> OtelSpan | None:
        """Return the span of a request that begins now, or None where it is not sampled."""
        if not self._sampled(traceparent):
            return None
        parent = _NOTHING if traceparent is None else _propagator.extract({"traceparent": traceparent}, _NOTHING)
        return OtelSpan(self._tracer, parent)

    def close(self) -> None:
        """Send what has ended and stop."""
        self._provider.shutdown()


def request_attributes(outcome: Outcome) -> dict[str, Any]:
    """Return what a request's span says of it."""
    said: dict[str, Any] = {
        "gen_ai.operation.name": outcome.endpoint,
        "gen_ai.request.model": outcome.asked,
        "http.response.status_code": outcome.status,
        "error.type": outcome.error,
        "router.request_id": outcome.request_id,
        "router.decision_id": outcome.decision_id,
        "router.caller": outcome.caller.id,
        "router.policy": outcome.policy,
        "router.cache": outcome.cache,
        "router.attempts": len(outcome.attempts),
        "router.stream": outcome.stream,
        "router.first_token_ms": outcome.first_token_ms,
        "router.overhead_ms": outcome.overhead_ms,
        "router.cost_usd": None if outcome.cost_usd is None else float(outcome.cost_usd),
    }
    if outcome.deployment is not None:
        said |= _place(outcome.deployment)
    if outcome.usage is not None:
        said |= {
            "gen_ai.usage.input_tokens": outcome.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": outcome.usage.completion_tokens,
            "router.usage_source": outcome.usage.source,
        }
    return {name: value for name, value in said.items() if value is not None}


def attempt_attributes(attempt: Attempt, outcome: Outcome) -> dict[str, Any]:
    """Return what an attempt's span says of it; it lasts until the first output, or the failure."""
    said: dict[str, Any] = {"gen_ai.operation.name": outcome.endpoint, "router.deployment": attempt.deployment}
    if attempt.error is not None:
        said["error.type"] = attempt.error
    if outcome.deployment is not None and outcome.deployment.id == attempt.deployment:
        said |= _place(outcome.deployment)
    return said


def _place(deployment: Deployment) -> dict[str, Any]:
    parts = urlsplit(deployment.backend.base_url)
    said: dict[str, Any] = {
        "gen_ai.provider.name": deployment.backend.name,
        "gen_ai.response.model": deployment.upstream_model,
        "router.deployment": deployment.id,
        "router.tier": deployment.backend.tier,
        "server.address": parts.hostname,
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }
    return {name: value for name, value in said.items() if value is not None}
