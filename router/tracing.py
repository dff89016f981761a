"""Tracing: which requests are traced is decided at the head, and one that is not costs nothing.

The spans themselves are in `router.spans`, which needs the extra `otel` and is loaded only where tracing is on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

from router.types import Outcome

__all__ = ["HeadSampler", "Span", "Tracer", "TracingUnavailable", "open_tracer", "require_tracing"]

_LENGTH = 55
_UNSAMPLED = "02468ace"
"""Last digits of the flags in which the bit `sampled` is not set."""


class TracingUnavailable(Exception):
    """Tracing is asked for and cannot be had; the message says what to do."""


class Span(Protocol):
    """The trace of one request that is sampled."""

    @property
    def traceparent(self) -> str:
        """What backends get in place of the client's header, so that their spans are children of this one."""
        ...

    def end(self, outcome: Outcome) -> None:
        """End the span with what the request came to; never blocks and never raises."""
        ...


class Tracer(Protocol):
    """Begins spans."""

    def begin(self, traceparent: str | None) -> Span | None:
        """Return the span of a request that begins now, or None where it is not sampled.

        Args:
            traceparent: The client's header of that name.
        """
        ...

    def close(self) -> None:
        """Send what has ended, within a few seconds, and stop; blocks."""
        ...


class HeadSampler:
    """Decides at a request's beginning whether it is traced: as its caller decided, else by chance.

    Source of the header's format: W3C Trace Context, version 00.

    Args:
        ratio: Share of the requests without a caller's decision that is traced, from 0 to 1.
        chance: Returns numbers in [0, 1).
    """

    __slots__ = ("_chance", "_ratio")

    def __init__(self, ratio: float, chance: Callable[[], float] = random.random) -> None:
        self._ratio = ratio
        self._chance = chance

    def sampled(self, traceparent: str | None) -> bool:
        """Return whether to trace a request with this header."""
        if traceparent is not None and len(traceparent) == _LENGTH:
            return traceparent[-1] not in _UNSAMPLED
        return self._chance() < self._ratio


def require_tracing() -> None:
    """Check that spans can be made.

    Raises:
        TracingUnavailable: The extra `otel` is not installed.
    """
    try:
        found = find_spec("opentelemetry.sdk.trace") and find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise TracingUnavailable(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but the packages for tracing are missing: install "
            "inference-router[otel], or unset it."
        )


def open_tracer(endpoint: str, service: str, ratio: float) -> Tracer:
    """Return a tracer that exports to a collector.

    Args:
        endpoint: Base URL of a collector that speaks OTLP over HTTP, without `/v1/traces`.
        service: The service's name in traces.
        ratio: Share of the requests without a caller's decision that is traced, from 0 to 1.

    Raises:
        TracingUnavailable: The extra `otel` is not installed.
    """
    require_tracing()
    from router.spans import OtelTracer  # noqa: PLC0415 - ten megabytes that only tracing needs

    return OtelTracer(endpoint, service, HeadSampler(ratio).sampled)
