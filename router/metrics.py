"""The router's Prometheus metrics: counted in plain dictionaries, told at a scrape, summed over its processes."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import msgspec
from msgspec import Struct, field
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from router.types import Outcome

__all__ = ["Counts", "MetricsFolder", "RouterMetrics"]

_log = logging.getLogger(__name__)
_DURATION = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_FIRST_TOKEN = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1)
# What is added up for each kind of answer, by position.
_REQUESTS, _COUNTED, _PROMPT, _CACHED, _COMPLETION, _COST = range(6)
_KINDS = ((_PROMPT, "prompt"), (_CACHED, "cached"), (_COMPLETION, "completion"))


def _empty(bounds: tuple[float, ...]) -> list[float]:
    """Return a histogram: one count for each bound, one beyond them, and the sum."""
    return [0.0] * (len(bounds) + 2)


class Counts(Struct):
    """Everything that is counted."""

    answers: dict[tuple[str, str, str, int, str], list[float]] = field(default_factory=dict)
    """By model asked for, model, backend, status and cache state: requests, those with known tokens, prompt,
    cached and completion tokens, USD."""
    attempts: dict[tuple[str, str], float] = field(default_factory=dict)
    """By deployment and result."""
    duration: dict[str, list[float]] = field(default_factory=dict)
    first_token: dict[str, list[float]] = field(default_factory=dict)
    overhead: list[float] = field(default_factory=lambda: _empty(_OVERHEAD))
    in_flight: int = 0
    hedges: dict[str, float] = field(default_factory=dict)
    """By what became of them."""
    held: dict[str, int] = field(default_factory=dict)
    """Requests that wait for a cluster to start, by backend."""

    def add(self, other: Counts) -> None:
        """Add what another process has counted; what has another shape is another version's and left out."""
        _add_lists(self.answers, other.answers)
        _add_lists(self.duration, other.duration)
        _add_lists(self.first_token, other.first_token)
        _add_lists({"": self.overhead}, {"": other.overhead})
        for key, value in other.attempts.items():
            self.attempts[key] = self.attempts.get(key, 0) + value
        for result, value in other.hedges.items():
            self.hedges[result] = self.hedges.get(result, 0) + value
        for backend, held in other.held.items():
            self.held[backend] = self.held.get(backend, 0) + held
        self.in_flight += other.in_flight


def _add_lists(into: dict, other: dict) -> None:  # type: ignore[type-arg]
    for key, values in other.items():
        known = into.get(key)
        if known is None:
            into[key] = list(values)
        elif len(known) == len(values):
            known[:] = map(float.__add__, map(float, known), map(float, values))


_read = msgspec.msgpack.Decoder(Counts).decode


class MetricsFolder:
    """Where the processes of one router tell each other what they have counted.

    Each process has a file of its own there, and holds a lock for as long as it lives. The file of a process
    that has ended stays, so that counters never go down. The folder belongs to one run of the router.

    Args:
        folder: The folder; it is made where it is missing.
        interval: Seconds between two writes.
    """

    def __init__(self, folder: Path, interval: float = 1.0) -> None:
        self._folder = Path(folder)
        self._interval = interval
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._writing = threading.Lock()
        self._dump: Callable[[], bytes] | None = None
        self._last: bytes | None = None
        self._complained = False

    @contextmanager
    def sharing(self, dump: Callable[[], bytes]) -> Iterator[None]:
        """Write what `dump` returns, again and again on a thread, until the context ends, and once more then.

        Raises:
            OSError: The folder cannot be used.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stop = threading.Event()
        thread = threading.Thread(target=self._repeat, args=(stop,), name="metrics-writer", daemon=True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._dump = dump
            self.publish()
            thread.start()
            yield
        finally:
            stop.set()
            if thread.ident is not None:
                thread.join()
                self.publish()
            self._dump = None
            os.close(lock)

    def publish(self) -> None:
        """Write the present counts now; a folder that cannot be written is told once."""
        with self._writing:
            if self._dump is None:
                return
            data = self._dump()
            if data == self._last:
                return
            unfinished = self._path("unfinished")
            try:
                unfinished.write_bytes(data)
                unfinished.replace(self._path("counts"))
            except OSError as error:
                if not self._complained:
                    reason = f"{self._folder} cannot be written: {error.strerror}."
                    _log.warning("other processes do not see these metrics", extra={"fields": {"reason": reason}})
                self._complained = True
            else:
                self._last, self._complained = data, False

    def others(self) -> Iterator[tuple[bytes, bool]]:
        """Yield what each other process wrote last, and whether it still runs."""
        for path in sorted(self._folder.glob("*.counts")):
            if path.stem == self._name:
                continue
            try:
                yield path.read_bytes(), _held(path.with_suffix(".lock"))
            except OSError:
                continue

    def _repeat(self, stop: threading.Event) -> None:
        while not stop.wait(self._interval):
            self.publish()

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._name}.{kind}"


def _held(lock: Path) -> bool:
    """Whether the process that made this lock file still runs."""
    try:
        file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who look at the same moment do not take each other for the owner.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


class RouterMetrics(Collector):
    """Counts outcomes, and tells them at a scrape.

    prometheus_client's own counters take a lock and two look-ups for each of some ten series of a request;
    here a request costs about as many additions to lists.

    Args:
        registry: Where they are registered.
        folder: Where the router's other processes tell their counts; None where there are none.
    """

    def __init__(self, registry: CollectorRegistry, folder: MetricsFolder | None = None) -> None:
        self.counts = Counts()
        self._folder = folder
        registry.register(self)

    def count(self, outcome: Outcome, asked: str) -> None:
        """Count one request.

        Args:
            outcome: How it ended.
            asked: What its model is called in labels; a name that a client made up must not become one.
        """
        counts, place = self.counts, outcome.deployment
        if place is None:
            backend, model = "none", asked
        else:
            backend, model = place.backend.name, place.model
        key = (asked, model, backend, outcome.status, outcome.cache)
        sums = counts.answers.get(key)
        if sums is None:
            sums = counts.answers[key] = [0.0] * 6
        sums[_REQUESTS] += 1
        usage = outcome.usage
        if usage is not None and outcome.cache != "hit":
            sums[_COUNTED] += 1
            sums[_PROMPT] += usage.prompt_tokens
            sums[_CACHED] += usage.cached_tokens
            sums[_COMPLETION] += usage.completion_tokens
        if outcome.cost_usd is not None:
            sums[_COST] += float(outcome.cost_usd)
        _observe(counts.duration, backend, _DURATION, outcome.duration_ms / 1000)
        if outcome.first_token_ms is not None:
            _observe(counts.first_token, backend, _FIRST_TOKEN, outcome.first_token_ms / 1000)
        overhead = outcome.overhead_ms / 1000
        counts.overhead[bisect_left(_OVERHEAD, overhead)] += 1
        counts.overhead[-1] += overhead
        for attempt in outcome.attempts:
            result = (attempt.deployment, attempt.error or "ok")
            counts.attempts[result] = counts.attempts.get(result, 0) + 1

    def hedge(self, result: str) -> None:
        """Count a second request that was sent because the first was slow to begin."""
        self.counts.hedges[result] = self.counts.hedges.get(result, 0) + 1

    def hold(self, backend: str, change: int) -> None:
        """Count a request that comes (1) to wait for a cluster to start, or goes (-1)."""
        self.counts.held[backend] = self.counts.held.get(backend, 0) + change

    def dump(self) -> bytes:
        """Return what this process has counted, in one piece; safe to call from another thread."""
        # The encoder runs no Python code, so that no count changes in between.
        return msgspec.msgpack.encode(self.counts)

    def total(self) -> Counts:
        """Return what all processes have counted; a gauge counts only those that still run."""
        total = _read(self.dump())
        if self._folder is not None:
            # What is told here must be in what another process tells next.
            self._folder.publish()
            for data, alive in self._folder.others():
                try:
                    other = _read(data)
                except msgspec.DecodeError:
                    continue
                if not alive:
                    other.in_flight = 0
                    other.held.clear()
                total.add(other)
        return total

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, as prometheus_client asks for them."""
        total = self.total()
        yield _counter(
            "router_requests",
            "Inference requests by model asked for, backend, status and cache state.",
            ("model", "backend", "status", "cache"),
            (
                ((asked, backend, str(status), cache), sums[_REQUESTS])
                for (asked, _, backend, status, cache), sums in total.answers.items()
            ),
        )
        yield _counter(
            "router_attempts",
            "Attempts at deployments by backend and result (`ok` or an error code).",
            ("backend", "result"),
            (((_backend_in(name), result), value) for (name, result), value in total.attempts.items()),
        )
        answers = [(model, backend, sums) for (_, model, backend, _, _), sums in total.answers.items()]
        yield _counter(
            "router_tokens",
            "Tokens by model, backend and kind (`prompt`, `cached`, `completion`).",
            ("model", "backend", "kind"),
            (
                ((model, backend, kind), sums[place])
                for model, backend, sums in answers
                if sums[_COUNTED]
                for place, kind in _KINDS
            ),
        )
        yield _counter(
            "router_cost_usd",
            "Known cost in USD by model and backend.",
            ("model", "backend"),
            (((model, backend), sums[_COST]) for model, backend, sums in answers if sums[_COST]),
        )
        yield _counter(
            "router_hedges",
            "Second requests for slow streams by whether they `won`, `lost` to the first, or `failed` as it did.",
            ("outcome",),
            (((result,), value) for result, value in total.hedges.items()),
        )
        yield from _histograms(total)
        held = GaugeMetricFamily(
            "router_held_requests", "Requests that wait for a cluster to start, by backend.", labels=("backend",)
        )
        for backend, number in total.held.items():
            held.add_metric((backend,), number)
        yield held
        yield GaugeMetricFamily("router_in_flight_requests", "Inference requests under way.", value=total.in_flight)


def _observe(histograms: dict[str, list[float]], label: str, bounds: tuple[float, ...], seconds: float) -> None:
    histogram = histograms.get(label)
    if histogram is None:
        histogram = histograms[label] = _empty(bounds)
    histogram[bisect_left(bounds, seconds)] += 1
    histogram[-1] += seconds


def _backend_in(deployment: str) -> str:
    """Return the backend that a deployment's id names."""
    return deployment.partition("@")[2].partition("/")[0]


def _counter(
    name: str, meaning: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> CounterMetricFamily:
    """Return a counter; values of the same labels are added up."""
    sums: dict[tuple[str, ...], float] = {}
    for key, value in values:
        sums[key] = sums.get(key, 0) + value
    family = CounterMetricFamily(name, meaning, labels=labels)
    for key, value in sums.items():
        family.add_metric(key, value)
    return family


def _histograms(total: Counts) -> Iterator[HistogramMetricFamily]:
    meaning = "Time from the request's arrival to the end of its answer."
    family = HistogramMetricFamily("router_request_duration_seconds", meaning, labels=("backend",))
    for backend, values in total.duration.items():
        _add_histogram(family, (backend,), _DURATION, values)
    yield family
    meaning = "Time from the request's arrival to the first output."
    family = HistogramMetricFamily("router_first_token_seconds", meaning, labels=("backend",))
    for backend, values in total.first_token.items():
        _add_histogram(family, (backend,), _FIRST_TOKEN, values)
    yield family
    meaning = "Time spent in the router before the first byte goes to a backend."
    family = HistogramMetricFamily("router_overhead_seconds", meaning, labels=())
    _add_histogram(family, (), _OVERHEAD, total.overhead)
    yield family


def _add_histogram(
    family: HistogramMetricFamily, labels: tuple[str, ...], bounds: tuple[float, ...], values: list[float]
) -> None:
    names = [*map(floatToGoString, bounds), "+Inf"]
    family.add_metric(labels, list(zip(names, accumulate(values[:-1]), strict=True)), values[-1])
