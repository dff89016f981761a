"""The router's metrics: what is counted is told, by every process for all of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from router.metrics import Counts, MetricsFolder, RouterMetrics
from router.types import Attempt
from tests.router.registry.outcomes import outcome


def made(folder: MetricsFolder | None = None) -> tuple[CollectorRegistry, RouterMetrics]:
    """Return a registry with the router's metrics."""
    registry = CollectorRegistry()
    return registry, RouterMetrics(registry, folder)


def lines(registry: CollectorRegistry) -> dict[str, float]:
    """Return what a scrape says."""
    text = generate_latest(registry).decode()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    }


def test_metrics_tell_what_was_counted() -> None:
    """Each number of an outcome is in its series."""
    registry, metrics = made()
    failed = Attempt("m@c/up", 0.1, 1.0, "upstream_timeout")
    metrics.count(outcome("r1", attempts=(failed, Attempt("m@b", 1.0, 20.0))), "auto")
    metrics.count(outcome("r2", first_token_ms=None), "auto")
    metrics.counts.in_flight += 3
    metrics.hedge("won")
    metrics.hold("b", 1)
    metrics.hold("b", 1)
    metrics.hold("b", -1)
    said = lines(registry)
    assert said['router_requests_total{backend="b",cache="miss",model="auto",status="200"}'] == 2
    assert said['router_attempts_total{backend="c",result="upstream_timeout"}'] == 1
    assert said['router_attempts_total{backend="b",result="ok"}'] == 2
    assert said['router_tokens_total{backend="b",kind="prompt",model="m"}'] == 20
    assert said['router_tokens_total{backend="b",kind="cached",model="m"}'] == 4
    assert said['router_tokens_total{backend="b",kind="completion",model="m"}'] == 10
    assert said['router_cost_usd_total{backend="b",model="m"}'] == pytest.approx(0.0000025)
    assert said['router_request_duration_seconds_count{backend="b"}'] == 2
    assert said['router_request_duration_seconds_sum{backend="b"}'] == pytest.approx(0.04)
    assert said['router_request_duration_seconds_bucket{backend="b",le="0.01"}'] == 0
    assert said['router_request_duration_seconds_bucket{backend="b",le="1.0"}'] == 2
    assert said['router_first_token_seconds_count{backend="b"}'] == 1
    assert said['router_overhead_seconds_bucket{le="0.0005"}'] == 2
    assert said["router_in_flight_requests"] == 3
    assert said['router_hedges_total{outcome="won"}'] == 1
    assert said['router_held_requests{backend="b"}'] == 1


def test_metrics_of_a_request_without_an_answer() -> None:
    """What is not known moves no series; an answer from the cache costs nothing and counts no tokens."""
    registry, metrics = made()
    metrics.count(outcome("r1", deployment=None, usage=None, cost_usd=None, status=404, attempts=()), "unknown")
    metrics.count(outcome("r2", deployment=None, cache="hit", cost_usd=Decimal(0), attempts=()), "m")
    said = lines(registry)
    assert said['router_requests_total{backend="none",cache="miss",model="unknown",status="404"}'] == 1
    assert said['router_requests_total{backend="none",cache="hit",model="m",status="200"}'] == 1
    assert not any(name.startswith(("router_tokens", "router_cost", "router_attempts")) for name in said)


@given(st.lists(st.floats(0, 400), max_size=30))
def test_histogram_is_that_of_prometheus_client(seconds: list[float]) -> None:
    """Buckets, counts and sums are those that the client library's own histogram has."""
    registry, metrics = made()
    theirs = CollectorRegistry()
    bounds = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
    histogram = Histogram("router_request_duration_seconds", "x", ["backend"], buckets=bounds, registry=theirs)
    for value in seconds:
        metrics.count(outcome("r", duration_ms=value * 1000), "m")
        histogram.labels("b").observe(value * 1000 / 1000)
    said = {name: value for name, value in lines(registry).items() if "duration" in name}
    assert said == pytest.approx({name: value for name, value in lines(theirs).items() if "_created" not in name})


def test_an_idle_router_tells_its_unlabelled_series() -> None:
    """A series without labels is there from the start."""
    said = lines(made()[0])
    assert said["router_in_flight_requests"] == said["router_overhead_seconds_count"] == 0


def test_dump_is_whole_while_another_thread_counts() -> None:
    """A dump that is made in the middle of counting can be read, and misses nothing that is done."""
    _, metrics = made()
    stop = threading.Event()
    seen: list[float] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(sum(sums[0] for sums in metrics.total().answers.values()))

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(3000):
        metrics.count(outcome("r", status=number % 500), f"m{number % 7}")
    stop.set()
    thread.join()
    assert seen == sorted(seen)
    assert sum(sums[0] for sums in metrics.total().answers.values()) == 3000


# --- several processes ------------------------------------------------------------------------------


@contextmanager
def worker(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A process that shares its metrics in `folder`; the function returned asks it to do something."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.router.metrics_worker", str(folder)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(what: str) -> float:
        process.stdin.write(what + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return float(process.stdout.readline())  # type: ignore[union-attr]

    try:
        yield process, ask
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def test_every_process_answers_for_all(tmp_path: Path) -> None:
    """A scrape of either process tells the sum, and one right after it at the other no less."""
    with worker(tmp_path) as (_, one), worker(tmp_path) as (_, other):
        one("count 3")
        assert one("scrape") == 3
        assert other("scrape") == 3
        other("count 4")
        assert other("scrape") == 7
        assert one("scrape") == 7
        one("count 1")
        assert one("scrape") == 8
        assert other("scrape") == 8
        assert other("in_flight") == one("in_flight") == 2


@pytest.mark.parametrize("end", ["close", "kill"])
def test_counters_of_a_process_that_has_ended_stay(tmp_path: Path, end: str) -> None:
    """What an ended process had counted stays in the sum; what it had under way does not."""
    with worker(tmp_path) as (_, one):
        with worker(tmp_path) as (process, other):
            other("count 5")
            assert other("scrape") == 5
            assert one("in_flight") == 2
            if end == "kill":
                process.send_signal(signal.SIGKILL)
        one("count 1")
        assert one("scrape") == 6
        assert one("in_flight") == 1


def test_the_last_counts_are_told(tmp_path: Path) -> None:
    """What was counted after the last write is written at the end."""
    folder = MetricsFolder(tmp_path, interval=3600)
    _, metrics = made(folder)
    with folder.sharing(metrics.dump):
        metrics.count(outcome("r"), "m")
    registry, _ = made(MetricsFolder(tmp_path))
    assert lines(registry)['router_requests_total{backend="b",cache="miss",model="m",status="200"}'] == 1


def test_a_folder_that_vanishes_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without its folder a process still tells its own counts."""
    folder = MetricsFolder(tmp_path / "shared", interval=3600)
    registry, metrics = made(folder)
    with folder.sharing(metrics.dump):
        for path in (tmp_path / "shared").iterdir():
            path.unlink()
        (tmp_path / "shared").rmdir()
        for _ in range(2):
            metrics.counts.in_flight += 1
            lines(registry)
        assert lines(registry)["router_in_flight_requests"] == 2
    assert [record.message for record in caplog.records] == ["other processes do not see these metrics"]


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """A file that is no dump, or another version's, spoils nothing."""
    (tmp_path / "1-a.counts").write_bytes(b"\xc1 nonsense")
    _, metrics = made(MetricsFolder(tmp_path))
    metrics.counts.overhead[0] = 1
    metrics.hold("b", 1)
    strange = Counts(overhead=[5.0], in_flight=7, held={"b": 7})
    _, other = made()
    other.counts = strange
    (tmp_path / "1-b.counts").write_bytes(other.dump())
    total = metrics.total()
    assert (total.overhead[0], len(total.overhead), total.in_flight, total.held) == (1, 11, 0, {"b": 1})
