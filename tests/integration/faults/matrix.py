"""Runs every fault at every dialect, for every kind of client, through one live router."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.integration.faults.clients import CLIENTS, ClientDialect, Read
from tests.integration.faults.dialects import DIALECTS
from tests.integration.faults.faults import FAULTS, LIMIT, Fault
from tests.integration.faults.scenes import Scene, answer
from tests.support.process import free_port
from tests.support.router import LiveRouter, live_router
from tests.support.upstream import ScriptedReply, ScriptedUpstream, SeenRequest, scripted_upstream
from tests.support.waiting import eventually

__all__ = ["SECRET", "Cell", "Record", "Run", "cells", "run"]

SECRET = "zq-canary-upstream-key-0123456789"  # of no known shape: nothing can find it by how it looks
_FAR = 25.0
_AT_ONCE = 100


class Cell(NamedTuple):
    """One field of the matrix."""

    fault: str
    dialect: str
    client: str
    stream: bool
    paired: bool


@dataclass
class Record:
    """What came of one cell."""

    cell: Cell
    status: int
    headers: httpx.Headers
    body: bytes
    read: Read
    seconds: float
    sick: int = 0
    """Requests that the faulty backend saw."""
    well: int = 0
    """Requests that the healthy one saw."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """What was written down of it."""


@dataclass
class Run:
    """What came of all cells."""

    records: dict[Cell, Record]
    address: str
    """Where the backends were."""
    busy: int
    """Exchanges with backends that were open after the last answer."""
    in_flight: int
    """Requests that the router believed to be under way then."""
    files: bytes
    """Everything that the router left on disk."""


def cells() -> Iterator[Cell]:
    """Yield every cell that can happen."""
    for name, fault in FAULTS.items():
        for dialect, client, stream, paired in product(DIALECTS, CLIENTS, (False, True), (False, True)):
            if fault.fate(dialect, stream) is not None:
                yield Cell(name, dialect, client, stream, paired)


def _manifest(address: str, refused: int, mute: int) -> str:
    """Return a registry with a backend for each fault and dialect, and two models for each of them."""
    backends, models = [], []

    def backend(name: str, dialect: str, base: str, limits: dict[str, float]) -> None:
        told = ", ".join(f"{limit}: {seconds}" for limit, seconds in limits.items())
        backends.append(
            f"  - {{name: {name}, dialect: {dialect}, base_url: '{base}', tier: external, api_key_env: FAULTS_KEY,"
            f" timeouts: {{{told}}}, breaker: {{enabled: false}}}}"
        )

    far = dict.fromkeys(("connect", "first_token", "idle", "total"), _FAR)
    backend("well", "openai", f"http://{address}/well/openai/v1", far)
    for (name, fault), (dialect, told) in product(FAULTS.items(), DIALECTS.items()):
        places = {"refused": f"http://127.0.0.1:{refused}", "mute": f"https://127.0.0.1:{mute}"}
        place = places.get(fault.place, f"http://{address}")
        backend(f"{name}-{dialect}", dialect, f"{place}/{name}/{dialect}{told.base}", {**far, **_limits(fault)})
        price = "price: {input: 1, output: 2}"
        sick = f"{{backend: {name}-{dialect}, {price}, upstream_model: sick}}"
        well = f"{{backend: well, {price}, upstream_model: well, priority: 1}}"
        models += [f"  - {{id: {name}-{dialect}-alone, deployments: [{sick}]}}"]
        models += [f"  - {{id: {name}-{dialect}-paired, deployments: [{sick}, {well}]}}"]
    return "\n".join(["backends:", *backends, "models:", *models]) + "\n"


def _limits(fault: Fault) -> dict[str, float]:
    """Return the limits that a fault is to reach, by what its fates say."""
    fates = [fault.whole, fault.stream]
    return {
        name: LIMIT
        for name in ("connect", "first_token", "idle", "total")
        if any(fate is not None and f"`{name}`" in fate.lasts for fate in fates)
        # A stream that is to reach an earlier limit must not reach its total.
        and not (name == "total" and fault.stream is not None)
    } | ({"total": 3 * LIMIT} if fault.whole is not None and "`total`" in fault.whole.lasts else {})


class _Stage:
    """Plays each fault's act for the requests that come, and counts them by request id."""

    def __init__(self) -> None:
        self.sick: Counter[str] = Counter()
        self.well: Counter[str] = Counter()
        self.busy = 0
        self.address = ""

    async def play(self, request: SeenRequest, reply: ScriptedReply) -> None:
        """Answer one request: its path says which fault, in which dialect."""
        _, name, dialect, *_ = request.path.split("/")
        told = DIALECTS[dialect]
        scene = Scene(request, reply, told, told.streams(request), SECRET, self.address)
        # A second request on a kept-alive connection is as good as a first.
        (self.well if name == "well" else self.sick)[request.headers["x-request-id"]] += 1
        self.busy += 1
        try:
            await (answer if name == "well" else FAULTS[name].act)(scene)
        finally:
            self.busy -= 1


@asynccontextmanager
async def _mute() -> AsyncIterator[int]:
    """Run a server that accepts connections and says nothing."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1024):
                pass
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def run(folder: Path) -> Run:
    """Run the matrix; `FAULTS_KEY` must hold `SECRET`."""
    stage, wanted = _Stage(), list(cells())
    async with scripted_upstream(stage.play) as upstream, _mute() as mute:
        stage.address = f"127.0.0.1:{upstream.port}"
        manifest = await asyncio.to_thread(_manifest, stage.address, free_port(), mute)
        async with live_router(folder, manifest) as router:
            records = await _ask_all(router, wanted, stage, upstream)
            busy = await _settled(stage, router)
            in_flight = router.services.metrics.get_sample_value("router_in_flight_requests")
        rows = await asyncio.to_thread(_rows, folder)
    for record in records.values():
        record.rows = rows.get(record.headers["x-request-id"], [])
    return Run(records, stage.address, busy, int(in_flight or 0), await asyncio.to_thread(_files, folder))


async def _ask_all(
    router: LiveRouter, wanted: list[Cell], stage: _Stage, upstream: ScriptedUpstream
) -> dict[Cell, Record]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def ask(cell: Cell) -> tuple[Cell, Record]:
        async with turns:
            record = await _ask(router, cell)
        upstream.requests.clear()  # twenty thousand bodies would be kept for nobody
        identity = record.headers["x-request-id"]
        record.sick, record.well = stage.sick[identity], stage.well[identity]
        return cell, record

    return dict(await asyncio.gather(*map(ask, wanted)))


async def _ask(router: LiveRouter, cell: Cell) -> Record:
    client: ClientDialect = CLIENTS[cell.client]
    model = f"{cell.fault}-{cell.dialect}-{'paired' if cell.paired else 'alone'}"
    started = time.perf_counter()
    reply = await router.client.post(client.path, json=client.body(model, cell.stream))
    streamed = cell.stream and reply.status_code == 200
    read = client.stream(reply.content) if streamed else client.whole(reply.content)
    return Record(cell, reply.status_code, reply.headers, reply.content, read, time.perf_counter() - started)


async def _settled(stage: _Stage, router: LiveRouter) -> int:
    """Wait until every exchange with a backend has ended; return how many have not."""
    with suppress(AssertionError):
        await eventually(lambda: stage.busy == 0, 5)
    return stage.busy


def _files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def _rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the usage rows by request."""
    with sqlite3.connect(folder / "models.db") as database:
        database.row_factory = sqlite3.Row
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in database.execute("select * from usage"):
            rows.setdefault(row["request_id"], []).append(dict(row))
    database.close()
    return rows
