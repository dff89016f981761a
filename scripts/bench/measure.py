"""One measurement: a workload run against a gateway, and what that has cost."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench.gateways import PATH, Gateway
from scripts.bench.meter import read_tree
from scripts.bench.native import Tools
from scripts.bench.processes import Running, on_core
from scripts.bench.workloads import MODEL, OPEN_STREAMS, Workload, body

__all__ = ["Bench", "MeasureError"]

_SETTLE = 0.1
_SETTLE_LIMIT = 2.0
_GRACE = 30.0


class MeasureError(Exception):
    """The load generator could not do its work; the message says why."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The mock, the load generator, and where both run.

    Args:
        tools: The programs.
        folder: Where request bodies are kept.
        mock_port: Where the mock listens.
        core: The core of the load generator; None: any.
        scale: What every workload's seconds and requests are multiplied with.
    """

    tools: Tools
    folder: Path
    mock_port: int
    core: int | None
    scale: float = 1.0

    def measure(self, gateway: Gateway, running: Running | None, workload: Workload) -> dict[str, Any]:
        """Run a workload once; return its counts, its times in microseconds, and the gateway's CPU time.

        Raises:
            MeasureError: There is no result.
        """
        before = self._used(running)
        began = time.monotonic()
        told = self._load(gateway, workload).result(workload)
        wall = time.monotonic() - began
        cpu = self._settled(running) - before
        measured: dict[str, Any] = {name: told[name] for name in ("good", "errors", "issued", "seconds", "rate")}
        for name in ("latency", "first_byte", "chunk_delay"):
            for rank in ("p50", "p99"):
                measured[f"{name}_{rank}_us"] = (told[f"{name}_us"] or {}).get(rank)
        if running is not None:
            measured["cpu_us_per_request"] = round(cpu * 1e6 / max(1, told["issued"]), 2)
            measured["busy"] = round(cpu / wall, 3)
            if told["chunks"]:
                measured["cpu_us_per_chunk"] = round(cpu * 1e6 / told["chunks"], 3)
        measured["fault"] = told["first_error"]
        return measured

    def memory_of_open_streams(self, gateway: Gateway, running: Running) -> float:
        """Return what each of a thousand open streams adds to a gateway's memory, in KiB.

        Raises:
            MeasureError: They were never open all at once.
        """
        before = read_tree(running.pid, memory=True).memory
        load = self._load(gateway, OPEN_STREAMS)
        try:
            until = time.monotonic() + 15
            while self.mock_stats()["open_streams"] < OPEN_STREAMS.connections:
                if time.monotonic() > until or not load.alive:
                    raise MeasureError(f"{gateway.name}: {OPEN_STREAMS.connections} streams were never open at once")
                time.sleep(0.05)
            time.sleep(0.3)  # the first chunks pass, so that buffers are there
            during = read_tree(running.pid, memory=True).memory
        finally:
            load.end()  # nobody waits for their end
        return round((during - before) / 1024 / OPEN_STREAMS.connections, 2)

    def mock_stats(self) -> dict[str, int]:
        """Return what the mock has counted."""
        connection = http.client.HTTPConnection("127.0.0.1", self.mock_port, timeout=5)
        try:
            connection.request("GET", "/stats")
            stats: dict[str, int] = json.loads(connection.getresponse().read())
            return stats
        finally:
            connection.close()

    def _load(self, gateway: Gateway, workload: Workload) -> _Load:
        model = workload.model or MODEL
        request = self.folder / f"{workload.name}-{model}.json"
        if not request.exists():
            made = body(workload.size, pace_us=workload.pace_us, chunks=workload.chunks, model=model)
            request.write_bytes(made)
        command = [str(self.tools.load), "-P", str(gateway.port), "-p", PATH, "-b", str(request)]
        command += ["-c", str(workload.connections), "-g", str(_GRACE)]
        command += ["-d", str(workload.seconds * (1 if workload.requests else self.scale))]
        if workload.requests:
            command += ["-n", str(max(1, round(workload.requests * self.scale)))]
        if workload.rate:
            command += ["-r", str(workload.rate)]
        if workload.chunks:
            command += ["-s", str(workload.chunks)]
        if workload.open_first:
            command.append("-o")
        command += ["-H", f"Authorization: Bearer {gateway.key}"]
        with on_core(self.core):
            return _Load(command)

    def _used(self, running: Running | None) -> float:
        return 0.0 if running is None else read_tree(running.pid).cpu

    def _settled(self, running: Running | None) -> float:
        """CPU seconds used once the gateway has come to rest: what it writes behind its answers belongs to them."""
        used = self._used(running)
        if running is None:
            return used
        until = time.monotonic() + _SETTLE_LIMIT
        while True:
            time.sleep(_SETTLE)
            now = self._used(running)
            if now - used < 0.03 * _SETTLE or time.monotonic() > until:
                return now
            used = now


class _Load:
    """One run of the load generator."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @property
    def alive(self) -> bool:
        """Whether it is still at it."""
        return self._process.poll() is None

    def result(self, workload: Workload) -> dict[str, Any]:
        """Wait for its end and return what it has counted.

        Raises:
            MeasureError: It has failed, or did not end in time.
        """
        try:
            out, problem = self._process.communicate(timeout=workload.seconds + _GRACE + 15)
        except subprocess.TimeoutExpired as error:
            raise MeasureError(f"{workload.name}: the load generator did not end") from error
        finally:
            self.end()
        if self._process.returncode != 0:
            raise MeasureError(f"{workload.name}: the load generator failed: {problem.strip()}")
        told: dict[str, Any] = json.loads(out)
        return told

    def end(self) -> None:
        """Kill it, if it has not ended."""
        if self.alive:
            self._process.kill()
            self._process.wait()
