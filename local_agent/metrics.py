"""The agent's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from local_agent.supervisor import Status

__all__ = ["Metrics"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class _StatusCollector(Collector):
    """Reads the supervisor's state when it is asked for, so that nothing has to be kept in step."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield GaugeMetricFamily("local_agent_ready", "Whether a model is loaded and served.", value=int(status.ready))
        yield GaugeMetricFamily("local_agent_queued", "Requests that wait for a turn.", value=status.queued)
        yield GaugeMetricFamily("local_agent_running", "Generations in the worker.", value=status.running)
        yield CounterMetricFamily(
            "local_agent_worker_restarts", "Workers that died or stalled and were replaced.", value=status.restarts
        )
        yield CounterMetricFamily(
            "local_agent_generated_tokens",
            "Tokens that the worker has generated, those of cancelled requests included.",
            value=status.tokens_generated,
        )


class Metrics:
    """What the agent counts.

    Args:
        status: Returns the supervisor's state.
    """

    def __init__(self, status: Callable[[], Status]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_StatusCollector(status))
        self._requests = Counter(
            "local_agent_requests",
            "Generation requests by outcome: ok, cancelled, or an error's code.",
            ("route", "outcome"),
            registry=self._registry,
        )
        self._tokens = Counter("local_agent_tokens", "Tokens of answered requests.", ("kind",), registry=self._registry)
        self.first_token = Histogram(
            "local_agent_first_token_seconds",
            "Time from request to first text, waiting included.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._seconds = Histogram(
            "local_agent_request_seconds",
            "Time from request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )

    def ended(self, route: str, outcome: str, seconds: float) -> None:
        """Count a generation request that has ended."""
        self._requests.labels(route, outcome).inc()
        self._seconds.labels(route).observe(seconds)

    def count_tokens(self, prompt: int, completion: int) -> None:
        """Count the tokens of an answered request."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(completion)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
