"""The bars: which ratio or value is to be reached, and whether it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scripts.bench.results import ALONE, INSTALLED, Results

__all__ = ["BARS", "COMPARISONS", "Bar", "Judged", "Verdict", "judge"]

Verdict = Literal["stretch", "reached", "missed", "not measured", ""]


@dataclass(frozen=True, slots=True)
class Bar:
    """A ratio of medians (ours to another's), or a value of ours, and what it may be at most.

    Args:
        title: What is compared.
        workload: Where it is measured.
        quantity: What of it.
        against: The gateway compared with; empty: the value itself counts.
        reach: What it may be at most; None: nothing is asked.
        stretch: What it would better be at most.
        ours: The gateway of ours.
        unit: The unit of the values.
        baseline: Where the other is measured; empty: in the same workload.
    """

    title: str
    workload: str
    quantity: str
    against: str = ""
    reach: float | None = None
    stretch: float | None = None
    ours: str = "router"
    unit: str = "µs"
    baseline: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """A bar and what was measured.

    Args:
        bar: The bar.
        ours: Our median; None: not measured.
        theirs: The other's median; None: not measured, or there is no other.
        value: The ratio, or our value where there is no other.
        verdict: Whether the bar is reached.
        errors: Answers to ours and theirs in this workload that were not good.
    """

    bar: Bar
    ours: float | None
    theirs: float | None
    value: float | None
    verdict: Verdict
    errors: tuple[int, int]


_CPU, _CHUNK = "cpu_us_per_request", "cpu_us_per_chunk"
_RUST, _NGINX, _LITELLM = "vllm-router", "nginx", "litellm"

BARS = (
    Bar("CPU per request, 64 connections", "conns-64", _CPU, _RUST, 1.1, 0.6),
    Bar("CPU per request, 64 connections", "conns-64", _CPU, _NGINX, 5, 3),
    Bar("CPU per request, 64 connections", "conns-64", _CPU, _LITELLM, 1 / 80, 1 / 150),
    Bar("CPU per streamed chunk, 20 ms pace", "streams-20ms", _CHUNK, _RUST, 1.5, 0.95),
    Bar("CPU per streamed chunk, 5 ms pace", "streams-5ms", _CHUNK, _RUST, 1.1, 0.95),
    Bar("CPU per streamed chunk, 20 ms pace", "streams-20ms", _CHUNK, _NGINX, 3, 1.8),
    Bar("chunk delay p99 at 2,500 chunks/s", "streams-20ms", "chunk_delay_p99_us", _RUST, 0.8, 0.5),
    Bar("p50 at one connection", "conns-1", "latency_p50_us", _RUST, 1.1, 0.9),
    Bar("burst of 2,000 streams: time to first byte, p50", "burst-2000", "first_byte_p50_us", _RUST, 0.8, 0.6),
    Bar("the same, connections open before", "burst-2000-open", "first_byte_p50_us", _RUST, 0.8, 0.6),
    Bar("burst of 2,000 streams: errors", "burst-2000", "errors", "", 0, 0, unit=""),
    Bar("1 MB body: CPU", "body-1m", _CPU, _RUST, 1.1, 0.5),
    Bar("10 MB body: CPU", "body-10m", _CPU, _RUST, 1.1, 0.5),
    Bar("idle memory per worker", ALONE, "idle_mib", _RUST, 1.0, 0.7, unit="MiB"),
    Bar("memory per open stream", ALONE, "stream_kib", _RUST, 0.4, 0.25, unit="KiB"),
    Bar("start to first answer", ALONE, "start_s", "", 1.2, 0.8, unit="s"),
    Bar("installed size, router only", INSTALLED, "mb", "", 80, 60, unit="MB"),
    Bar("features tax: everything on vs off", "conns-64", _CPU, "router-off", 1.3, 1.15),
    Bar("registry: 10,000 deployments vs 100", "conns-64", _CPU, "router", 1.1, 1.0, "router-10k"),
    Bar("one model of 10,000 deployments vs 100", "conns-64", _CPU, "router", 1.1, 1.0, "router-10k-one"),
    Bar("registry: 1,000,000 keys vs 10", "conns-64", _CPU, "router", 1.1, 1.0, "router-1m-keys"),
)

COMPARISONS = (
    Bar("CPU per request, 1 connection", "conns-1", _CPU, _RUST),
    Bar("CPU per request, 16 connections", "conns-16", _CPU, _RUST),
    Bar("CPU per request, 256 connections", "conns-256", _CPU, _RUST),
    Bar("p50 at one connection", "conns-1", "latency_p50_us", _NGINX),
    Bar("p50 at 100 requests/s", "rate-100", "latency_p50_us", _RUST),
    Bar("p99 at 100 requests/s", "rate-100", "latency_p99_us", _RUST),
    Bar("CPU per streamed chunk, 20 ms pace", "streams-20ms", _CHUNK, _LITELLM),
    Bar("CPU per streamed chunk, 5 ms pace", "streams-5ms", _CHUNK, _NGINX),
    Bar("chunk delay p50 at 2,500 chunks/s", "streams-20ms", "chunk_delay_p50_us", _RUST),
    Bar("chunk delay p99 at 10,000 chunks/s", "streams-5ms", "chunk_delay_p99_us", _RUST),
    Bar("burst of 2,000 streams: time to first byte, p99", "burst-2000", "first_byte_p99_us", _RUST),
    Bar("100 KB body: CPU", "body-100k", _CPU, _RUST),
    Bar("1 MB body: CPU", "body-1m", _CPU, _NGINX),
    Bar("idle memory per worker", ALONE, "idle_mib", _LITELLM, unit="MiB"),
    Bar("start to first answer", ALONE, "start_s", _RUST, unit="s"),
    Bar("start to first answer", ALONE, "start_s", _LITELLM, unit="s"),
    Bar("installed size", INSTALLED, "mb", _LITELLM, unit="MB"),
    Bar("features tax of a chunk, 20 ms pace", "streams-20ms", _CHUNK, "router-off"),
    Bar("by policy vs by model: CPU per request", "policy-64", _CPU, "router", baseline="conns-64"),
    Bar("client httpx vs lean: CPU per request", "conns-64", _CPU, "router", ours="router-httpx"),
    Bar("client httpx vs lean: CPU per chunk, 20 ms pace", "streams-20ms", _CHUNK, "router", ours="router-httpx"),
    Bar("client lean vs httpx: CPU per request", "conns-64", _CPU, "router", ours="router-lean"),
    Bar("client lean vs httpx: CPU per chunk, 20 ms pace", "streams-20ms", _CHUNK, "router", ours="router-lean"),
    Bar("through ASGI vs past it: CPU per request", "conns-64", _CPU, "router", ours="router-asgi"),
    Bar("through ASGI vs past it: CPU per chunk, 20 ms pace", "streams-20ms", _CHUNK, "router", ours="router-asgi"),
)


def judge(bar: Bar, results: Results) -> Judged:
    """Compare the medians of a run with a bar."""
    ours = _value(results, bar.workload, bar.ours, bar.quantity)
    baseline = bar.baseline or bar.workload
    theirs = _value(results, baseline, bar.against, bar.quantity) if bar.against else None
    value = _ratio(ours, theirs) if bar.against else ours
    errors = (results.errors(bar.ours, bar.workload), results.errors(bar.against, baseline))
    return Judged(bar, ours, theirs, value, _verdict(bar, value), errors)


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def _value(results: Results, workload: str, gateway: str, quantity: str) -> float | None:
    if quantity == "errors" and results.all(workload, gateway, quantity):
        return float(results.errors(gateway, workload))  # one is one too many, in whatever round
    return results.median(workload, gateway, quantity)


def _verdict(bar: Bar, value: float | None) -> Verdict:
    if bar.reach is None:
        return ""
    if value is None:
        return "not measured"
    if bar.stretch is not None and value <= bar.stretch:
        return "stretch"
    return "reached" if value <= bar.reach else "missed"
