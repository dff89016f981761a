"""A run: every gateway started, every workload run for each in turn, round after round."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.bench.gateways import Gateway, NotReady, start
from scripts.bench.measure import Bench, MeasureError
from scripts.bench.meter import read_tree
from scripts.bench.processes import Cores, Running
from scripts.bench.results import ALONE, Results
from scripts.bench.workloads import Workload

__all__ = ["run_alone", "run_rounds"]

_WARM_UP = Workload("warm-up", "a short first load", 16, 0.3)
_WARM_STREAMS = Workload("warm-streams", "a few first streams", 16, 10.0, requests=32, chunks=8, pace_us=2_000)


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def run_alone(bench: Bench, gateways: Sequence[Gateway], cores: Cores, logs: Path, results: Results) -> None:
    """Start gateways one by one, nothing else running: seconds to the first answer, and memory."""
    for attempt in range(max((gateway.alone for gateway in gateways), default=0)):
        for gateway in gateways:
            if attempt >= gateway.alone:
                continue
            try:
                running, seconds = start(gateway, logs, cores.gateway)
            except NotReady as error:
                _leave_out(results, str(error))
                continue
            try:
                measured: dict[str, float | None] = {"start_s": round(seconds, 3)}
                time.sleep(1.0)
                measured["idle_mib"] = round(read_tree(running.pid, memory=True).memory / 2**20, 2)
                measured["stream_kib"] = _stream_kib(bench, gateway, running, results)
            finally:
                running.stop()
            results.add(ALONE, gateway.name, measured)
            _say(f"alone: {gateway.name} " + " ".join(f"{name}={value}" for name, value in measured.items()))


def _stream_kib(bench: Bench, gateway: Gateway, running: Running, results: Results) -> float | None:
    if not gateway.open_streams:
        return None
    try:
        bench.measure(gateway, running, _WARM_UP)
        bench.measure(gateway, running, _WARM_STREAMS)
        return bench.memory_of_open_streams(gateway, running)
    except MeasureError as error:
        _leave_out(results, str(error))
        return None


def run_rounds(
    bench: Bench,
    gateways: Sequence[Gateway],
    workloads: Sequence[Workload],
    rounds: int,
    cores: Cores,
    logs: Path,
    results: Results,
) -> None:
    """Start all gateways, run every workload for each of them in turn, round after round, and end them.

    The order of the gateways is reversed in every other round, so that what drifts meets all of them alike.
    """
    with ExitStack() as stack:
        live: list[tuple[Gateway, Running | None]] = []
        for gateway in gateways:
            if not gateway.command:
                live.append((gateway, None))
                continue
            try:
                running, seconds = start(gateway, logs, cores.gateway)
            except NotReady as error:
                _leave_out(results, str(error))
                results.gateways.pop(gateway.name, None)
                continue
            stack.callback(running.stop)
            live.append((gateway, running))
            _say(f"{gateway.name} answers after {seconds:.2f} s")
        for gateway, process in live:
            bench.measure(gateway, process, _WARM_UP)
        for number in range(rounds):
            for workload in workloads:
                for gateway, process in live if number % 2 == 0 else live[::-1]:
                    if gateway.measures(workload.name):
                        _one(bench, gateway, process, workload, number, results)


def _one(
    bench: Bench, gateway: Gateway, running: Running | None, workload: Workload, number: int, results: Results
) -> None:
    try:
        measured = bench.measure(gateway, running, workload)
    except MeasureError as error:
        _leave_out(results, str(error))
        return
    fault = measured.pop("fault")
    results.add(workload.name, gateway.name, measured)
    if measured["errors"]:
        results.faults.append(f"{workload.name}, {gateway.name}, round {number + 1}: {measured['errors']}x {fault}")
    told = " ".join(f"{name}={value:g}" for name, value in measured.items() if value is not None)
    _say(f"round {number + 1} {workload.name:12} {gateway.name:14} {told}")


def _leave_out(results: Results, line: str) -> None:
    _say(line)
    first = line.splitlines()[0].removesuffix(" Its last words:")
    if first not in results.left_out:
        results.left_out.append(first)
