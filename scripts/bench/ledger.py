"""What a request costs after its answer: metering, the usage row, metrics, the access line.

`python -m scripts.bench.ledger` measures this checkout; with `--against FOLDER` another checkout too, in turns, so
that both see the same machine. Figures are microseconds of CPU time, the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

import router.accounting as accounting
from router.registry.store import open_store
from router.registry.usage import UsageWriter
from router.types import Attempt, Backend, Caller, Chunk, Deployment, InferenceRequest, Price
from shared.asgi import RequestContext
from shared.logs import logging_to_stderr
from shared.types import Usage

__all__ = ["main", "measure"]

ROOT = Path(__file__).parents[2]
CALLS = 20_000
REQUESTS = 12_000
BURST = 30
PAUSE = 0.01
PLACE = Deployment(
    "gpt-4o-mini@scripted",
    "gpt-4o-mini",
    Backend("scripted", "openai", "http://127.0.0.1:9100/v1", "external"),
    "gpt-test-2026",
    Price(Decimal("0.15"), Decimal("0.075"), Decimal("0.60")),
)
BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}'


def request(number: int) -> InferenceRequest:
    """Return a request as a client would send it."""
    return InferenceRequest(f"req_{number:024x}", "chat", "gpt-4o-mini", False, BODY, {}, Caller("key_1", "bench"))


def answered(ledger: Any, number: int) -> Any:
    """Return the meter of a request whose answer is about to end."""
    now = time.perf_counter()
    meter = ledger.open(request(number), now - 0.003)
    meter.known, meter.model, meter.backend, meter.complete = True, "gpt-4o-mini", "scripted", True
    meter.usage = Usage(11 + number % 97, 5 + number % 31)
    meter.trail.deployment, meter.trail.first_sent, meter.trail.first_token = PLACE, now - 0.0027, now - 0.0005
    meter.trail.attempts.append(Attempt(PLACE.id, 0.31, 2.2))
    return meter


def each(work: Callable[[], object], calls: int) -> float:
    """Return the microseconds of one call, the best of five runs."""
    best = float("inf")
    for _ in range(5):
        begun = time.thread_time()
        for _ in range(calls):
            work()
        best = min(best, time.thread_time() - begun)
    return best / calls * 1e6


def threads_cpu(before: set[threading.Thread]) -> float:
    """Return the CPU seconds so far of the threads that were not there before."""
    others = set(threading.enumerate()) - before
    return sum(time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) for thread in others if thread.ident)


def measure_meter(ledger: Any, calls: int) -> dict[str, float]:
    """Return the costs of opening, observing and heading."""
    asked = request(1)
    meter = answered(ledger, 1)
    chunk = Chunk(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n' * 4, output=True)
    now = time.perf_counter()
    return {
        "open": each(lambda: ledger.open(asked, now), calls),
        "observe a chunk": each(lambda: meter.observe(chunk), calls),
        "head": each(lambda: meter.head(now), calls),
    }


def measure_settle(ledger: Any, writer: UsageWriter, before: set[threading.Thread], requests: int) -> dict[str, float]:
    """Return what settling costs under a steady load of some 3,000 requests a second."""
    spent = 0.0
    writer.flush(60)
    thread = threads_cpu(before)
    for start in range(0, requests, BURST):
        meters = [answered(ledger, start + number) for number in range(BURST)]
        begun = time.thread_time()
        for meter in meters:
            ledger.settle(meter)
        spent += time.thread_time() - begun
        time.sleep(PAUSE)
    writer.flush(60)
    thread = threads_cpu(before) - thread
    return {"settle": spent / requests * 1e6, "settle, the writer's thread": thread / requests * 1e6}


@contextmanager
def nowhere() -> Iterator[None]:
    """Let standard error go to a file that nobody keeps."""
    kept = sys.stderr
    with tempfile.TemporaryFile("w+") as sink:
        sys.stderr = sink
        try:
            yield
        finally:
            sys.stderr = kept


def measure_access(outcome: Any, calls: int, requests: int) -> dict[str, float]:
    """Return what the context of a request costs with its access line, and the line on its thread."""

    async def answer(scope: Any, _receive: Any, send: Any) -> None:
        scope["state"]["log"].update(accounting.log_fields(outcome))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def nobody(*_: Any) -> Any: ...

    before = set(threading.enumerate())
    with nowhere(), logging_to_stderr("info") as access:
        fast: Any = {"access": access} if "access" in inspect.signature(RequestContext.__init__).parameters else {}
        context = RequestContext(answer, logging.getLogger("router.access"), **fast)
        fields = {"request_id": "req_1", "method": "POST", "path": "/", "status": 200, "ms": 2.5}
        if fast:
            line: Callable[[], object] = lambda: access.write(fields)  # noqa: E731
        else:
            line = lambda: logging.getLogger("router.access").info("request", extra={"fields": fields})  # noqa: E731

        async def run() -> float:
            spent = 0.0
            for _ in range(0, requests, BURST):
                begun = time.thread_time()
                for _ in range(BURST):
                    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
                    await context(scope, nobody, nobody)
                spent += time.thread_time() - begun
                await asyncio.sleep(PAUSE)
            return spent

        loop = asyncio.run(run())
        time.sleep(0.5)
        thread = threads_cpu(before)
        alone = each(line, calls // 10)
    return {
        "access line, alone": alone,
        "request context and access line": loop / requests * 1e6,
        "access line, the log's thread": thread / requests * 1e6,
    }


def measure(calls: int = CALLS, requests: int = REQUESTS) -> dict[str, float]:
    """Return every figure of the checkout that is imported.

    Args:
        calls: How often a single call is repeated in each of five runs.
        requests: How many requests are settled at a steady pace.
    """
    before = set(threading.enumerate())
    metrics = sys.modules.get("router.metrics", accounting)
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        path = Path(folder) / "models.db"
        store = open_store(path)
        writer = UsageWriter(store, path)
        ledger = accounting.Ledger(writer, vars(metrics)["RouterMetrics"](CollectorRegistry()))
        figures = measure_meter(ledger, calls) | measure_settle(ledger, writer, before, requests)
        outcome = answered(ledger, 0).outcome(time.perf_counter())
        writer.close()
        store.close()
    return figures | measure_access(outcome, calls, requests)


def _measured_in(folder: Path) -> dict[str, float]:
    """Measure a checkout in a process of its own, with this module's code."""
    program = f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r}, run_name='bench')['print_json']()"
    environment = {"PATH": os.defpath, "PYTHONPATH": str(folder)}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True
    )
    figures: dict[str, float] = json.loads(ran.stdout)
    return figures


def print_json() -> None:
    """Print the figures of the checkout that is imported."""
    print(json.dumps(measure()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, return the exit status."""
    parser = argparse.ArgumentParser(prog="ledger", description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    folders = [*([given.against.resolve()] if given.against else []), ROOT]
    rounds: list[list[dict[str, float]]] = [[] for _ in folders]
    for _ in range(given.rounds):
        for place, folder in enumerate(folders):
            rounds[place].append(_measured_in(folder))
    print(f"{'us of CPU for one request':34}" + ("    theirs      ours   ratio" if given.against else "      ours"))
    for name in rounds[-1][0]:
        values = [statistics.median(figures[name] for figures in measured) for measured in rounds]
        ratio = f"{values[-1] / values[0]:8.2f}" if given.against else ""
        print(f"{name:34}" + "".join(f"{value:10.2f}" for value in values) + ratio)
    return 0


if __name__ == "__main__":
    sys.exit(main())
