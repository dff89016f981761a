"""`make soak`: minutes of mixed traffic against a real router process, and whether anything is left behind.

Half of the time with Valkey, half without. Exits 1 where memory is not flat, something stays open or an error has no
explanation.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from scripts.bench.processes import free_port
from scripts.soak.measure import Sample, rss_mib, sockets
from scripts.soak.report import Findings, judge, table
from scripts.soak.traffic import ENDPOINTS, Shape, Traffic
from tests.integration.faults.dialects import DIALECTS
from tests.support.process import ROOT, Service, clean_environment, wait_until_ready
from tests.support.valkey import ValkeyProcess

_BACKENDS = 3
_INTERVAL = 2.0
_DRAIN = 15.0
_COOLDOWN = 2.0
"""Seconds that a breaker of these backends stays open by itself."""


def _manifest(ports: Sequence[int]) -> str:
    """Return a registry: for each dialect a model at one backend, one at two, and one at the first of these."""
    limits = "timeouts: {connect: 5, first_token: 3, idle: 3, total: 60}"
    backends, models = [], []
    for dialect, told in DIALECTS.items():
        for place, port in zip(("solo", "first", "second"), ports, strict=True):
            # Faults at `solo` must not keep others away from it; `first` has a breaker that closes soon.
            breaker = f", breaker: {{{'enabled: false' if place == 'solo' else f'cooldown: {_COOLDOWN}'}}}"
            url = f"http://127.0.0.1:{port}/{place}/{dialect}{told.base}"
            name = f"{place}-{dialect}"
            backends.append(
                f"  - {{name: {name}, dialect: {dialect}, base_url: '{url}', tier: external, {limits}{breaker}}}"
            )
        price = "price: {input: 1, output: 2}"
        models.append(f"  - {{id: solo-{dialect}, deployments: [{{backend: solo-{dialect}, {price}}}]}}")
        models.append(f"  - {{id: first-{dialect}, deployments: [{{backend: first-{dialect}, {price}}}]}}")
        pair = ", ".join(f"{{backend: {place}-{dialect}, {price}}}" for place in ("first", "second"))
        models.append(f"  - {{id: pair-{dialect}, deployments: [{pair}]}}")
    return "\n".join(["backends:", *backends, "models:", *models]) + "\n"


@contextlib.contextmanager
def _process(module: str, *arguments: str, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=clean_environment(env),
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _present(url: str) -> list[str]:
    """Return the paths of the endpoints that the router has."""
    found = []
    async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
        for path, body in ENDPOINTS.items():
            reply = await client.post(path, json=body("pair-openai", "soak-words=2", False))
            if reply.status_code == 200:
                found.append(path)
            elif reply.status_code not in (404, 405):
                raise RuntimeError(f"{path} answered {reply.status_code}: {reply.text[:300]}")
    return found


async def _look(client: httpx.AsyncClient, pid: int, began: float) -> Sample:
    told = (await client.get("/metrics")).text
    line = next(line for line in told.splitlines() if line.startswith("router_in_flight_requests"))
    second = time.monotonic() - began
    return Sample(second, await asyncio.to_thread(rss_mib, pid), sockets(pid), int(float(line.split()[-1])))


async def _soak(
    url: str, pid: int, minutes: float, shape: Shape, valkey: ValkeyProcess, ports: Sequence[int]
) -> tuple[Traffic, list[Sample], Sample, dict[str, Any]]:
    traffic = Traffic(url, list(DIALECTS), await _present(url), shape, seed=1)
    began, samples = time.monotonic(), list[Sample]()
    ends = began + minutes * 60
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        working = asyncio.ensure_future(traffic.run(ends))
        stopped = False
        while not working.done():
            await asyncio.wait((working,), timeout=_INTERVAL)
            samples.append(await _look(client, pid, began))
            if not stopped and time.monotonic() - began > minutes * 30:
                stopped = True
                await asyncio.to_thread(valkey.stop)
        working.result()
        busy = await _drained(client, ports)
        stuck = await _stuck(client)
        last = await _look(client, pid, began)
    return traffic, samples, last, {"busy": busy, "stuck": stuck, "endpoints": list(traffic.endpoints)}


async def _drained(client: httpx.AsyncClient, ports: Sequence[int]) -> int:
    """Wait until no backend answers anything any more; return how many requests one still does."""
    until, busy = time.monotonic() + _DRAIN, -1
    while busy and time.monotonic() < until:
        await asyncio.sleep(0.2)
        told = [await client.get(f"http://127.0.0.1:{port}/busy") for port in ports]
        busy = sum(reply.json()["busy"] for reply in told)
    return busy


async def _stuck(client: httpx.AsyncClient) -> list[str]:
    """Return the models that do not answer although nothing is wrong any more: a breaker that sticks."""
    await asyncio.sleep(_COOLDOWN + 1)
    body = ENDPOINTS["/v1/chat/completions"]
    broken = []
    for dialect in DIALECTS:
        for model in (f"solo-{dialect}", f"first-{dialect}"):
            # Two requests: a breaker lets a single probe through.
            replies = [await client.post("/v1/chat/completions", json=body(model, "soak-words=4", False)) for _ in "ab"]
            if any(reply.status_code != 200 for reply in replies):
                broken.append(model)
    return broken


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak; return the exit status."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the traffic lasts (10)")
    parser.add_argument("--clients", type=int, default=24, help="requests at a time (24)")
    parser.add_argument("--json", type=Path, default=Path(".soak/result.json"), help="where the figures go")
    given = parser.parse_args(arguments)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    shape = Shape(clients=given.clients)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        findings = _run(folder, given.minutes, shape)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    given.json.write_text(json.dumps(findings.figures, indent=1) + "\n", encoding="utf-8")
    print(table(findings))
    print(f"written: {given.json}")
    return 1 if findings.problems else 0


def _run(folder: Path, minutes: float, shape: Shape) -> Findings:
    ports = [free_port() for _ in range(_BACKENDS)]
    registry, counts, port = folder / "registry.yaml", folder / "counts", free_port()
    registry.write_text(_manifest(ports), encoding="utf-8")
    counts.touch()
    with contextlib.ExitStack() as stack:
        for number in ports:
            log = folder / f"backend-{number}.log"
            stack.enter_context(_process("scripts.soak.backend", str(number), env={}, log=log))
        valkey = stack.enter_context(ValkeyProcess(folder))
        env = {
            "ROUTER_PORT": str(port),
            "ROUTER_REGISTRY_FILE": str(registry),
            "SQLITE_DB_PATH": str(folder / "models.db"),
            "REDIS_URL": valkey.url,
            "LOCAL_AGENT_URL": "off",
            "ROUTER_LOG_LEVEL": "info",
        }
        log, url = folder / "router.log", f"http://127.0.0.1:{port}"
        process = stack.enter_context(_process("scripts.soak.watched", str(counts), env=env, log=log))
        wait_until_ready(Service(process, url, log), "/readyz", 30)
        traffic, samples, last, state = asyncio.run(_soak(url, process.pid, minutes, shape, valkey, ports))
        state["alive"] = process.poll() is None
        inside = [json.loads(line) for line in counts.read_text(encoding="utf-8").splitlines()]
        told = log.read_text(encoding="utf-8", errors="replace")
        state["tracebacks"] = told.count("Traceback") + told.count("unhandled exception")
        if state["tracebacks"]:
            Path(".soak/router.log").write_text(told, encoding="utf-8")
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return judge(traffic, samples, last, inside, {**state, "minutes": minutes, "machine": machine})


if __name__ == "__main__":
    sys.exit(main())
