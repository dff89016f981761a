"""Each way in which a part of an llm-d cluster fails, on each endpoint, whole and streamed, alone and not."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.integration.faults.clients import CLIENTS, ChatClient, ClientDialect, Read
from tests.support.llmd_upstream import INNER, SHAPES, WORDS, serve
from tests.support.router import live_router, manifest_for
from tests.support.upstream import ScriptedReply, ScriptedUpstream, SeenRequest, scripted_upstream

TEXT = "".join(WORDS)


class CompletionsClient(ChatClient):
    """`/v1/completions`."""

    name = "completions"
    path = "/v1/completions"

    def body(self, model: str, stream: bool) -> dict[str, Any]:
        """Return a request for a text."""
        return {"model": model, "prompt": "Count.", "stream": stream}

    def whole(self, body: bytes) -> Read:
        """Read a completion."""
        told = json.loads(body)
        for choice in told.get("choices", ()):
            choice["message"] = {"content": choice["text"]}
        return super().whole(json.dumps(told).encode())

    def stream(self, body: bytes) -> Read:
        """Read chunks up to `[DONE]` or an error."""
        read = super().stream(body.replace(b'"text":', b'"delta":{},"said":'))
        events = (event[6:] for event in body.split(b"\n\n") if event.startswith(b"data: {"))
        read.text = "".join(choice["text"] for event in events for choice in json.loads(event).get("choices", ()))
        return read


FRONTS: dict[str, ClientDialect] = {**CLIENTS, "completions": CompletionsClient()}


@dataclass(frozen=True)
class Fate:
    """What comes of a shape.

    Attributes:
        alone: Status and code of what the client is told where there is nobody else; `cut`: what was said, then an
            error event.
        wait: The `Retry-After` that goes with it.
        fault: Whether it counts against the deployment's health.
        falls: Whether the next candidate answers.
        tries: How many requests the cluster sees where it is alone.
    """

    alone: str
    wait: str | None = None
    fault: bool = True
    falls: bool = True
    tries: int = 1


NO_ROOM = Fate("503 overloaded", "2", fault=False, tries=2)
NO_ROOM_LONG = Fate("503 overloaded", "10", fault=False)
NOBODY = Fate("503 model_starting", "10", fault=False)
AWAY = Fate("503 upstream_unavailable", tries=2)
BROKEN = Fate("502 upstream_unavailable", tries=2)
MISSING = Fate("502 upstream_lacks_model")
CUT = Fate("cut")
TOLD = Fate("400 None", fault=False, falls=False)

FATES = {
    "saturated": NO_ROOM,
    "ttl": NO_ROOM_LONG,
    "saturated_legacy": NO_ROOM,
    "saturated_json": NO_ROOM,
    "evicted": NO_ROOM_LONG,
    "evicted_priority": NO_ROOM_LONG,
    "denied": NO_ROOM,
    "no_endpoints": NOBODY,
    "no_endpoints_json": NOBODY,
    "no_pods": NOBODY,
    "shutting_down": AWAY,
    "cancelled": AWAY,
    "epp_fault": BROKEN,
    "envoy_none": NOBODY,
    "envoy_reset": AWAY,
    "envoy_overflow": NO_ROOM,
    "envoy_timeout": Fate("504 upstream_timeout"),
    "sidecar_400": TOLD,
    "sidecar_502": BROKEN,
    "sidecar_503": AWAY,
    "too_long": Fate("400 context_length_exceeded", fault=False),
    "queue_full": NO_ROOM,
    "tokens_full": NO_ROOM,
    "no_model": MISSING,
    "no_model_sidecar": MISSING,
    "no_model_silent": MISSING,
    "sigterm_first": BROKEN,
    "sigterm": BROKEN,
    "abort_first": BROKEN,
    "abort": BROKEN,
    "cut_first": BROKEN,
    "cut": BROKEN,
}
STREAMED = {"sigterm": CUT, "abort": CUT, "cut": CUT}
"""What comes of a stream, where it is something else."""


def fate_of(shape: str, stream: bool) -> Fate:
    """Return what comes of a shape."""
    return STREAMED.get(shape, FATES[shape]) if stream else FATES[shape]


class Cell(NamedTuple):
    """One request."""

    shape: str
    front: str
    stream: bool
    paired: bool

    @property
    def model(self) -> str:
        """The model that it asks for, which nobody else does."""
        return (
            f"{self.shape}-{self.front}-{'stream' if self.stream else 'whole'}-{'paired' if self.paired else 'alone'}"
        )


CELLS = [Cell(*cell) for cell in product(SHAPES, FRONTS, (False, True), (False, True))]


@dataclass
class Record:
    """What came of one request."""

    reply: httpx.Response
    read: Read
    seen: int
    rows: list[dict[str, Any]]
    failure_rate: float
    available: bool


def manifest(url: str) -> str:
    """Return a registry with a model for each cell: at a cluster that fails, and elsewhere."""
    backends = [f"  - {{name: well, dialect: openai, base_url: '{url}/well/v1', tier: external}}"]
    backends += [
        f"  - {{name: {shape}, dialect: openai, base_url: '{url}/{shape}/v1', tier: cluster}}" for shape in SHAPES
    ]
    models = []
    for cell in CELLS:
        price = "price: {input: 1, output: 2}"
        places = [f"{{backend: {cell.shape}, {price}, upstream_model: up}}"]
        if cell.paired:
            places.append(f"{{backend: well, {price}, upstream_model: up, priority: 1}}")
        models.append(f"  - {{id: {cell.model}, context_length: 64, deployments: [{', '.join(places)}]}}")
        if cell.shape == "too_long" and cell.paired:
            larger = f"{{backend: well, {price}, upstream_model: up}}"
            models[-1] = models[-1].removesuffix(f", {places[1]}]}}") + f"], fallbacks: [{cell.model}-larger]}}"
            models.append(f"  - {{id: {cell.model}-larger, context_length: 999, deployments: [{larger}]}}")
    return "\n".join(["backends:", *backends, "models:", *models]) + "\n"


async def run(folder: Path) -> dict[Cell, Record]:
    """Ask for every cell once."""
    seen: Counter[str] = Counter()

    async def play(request: SeenRequest, reply: ScriptedReply) -> None:
        shape = request.path.split("/")[1]
        seen[request.headers["x-request-id"]] += shape != "well"
        await (serve if shape == "well" else SHAPES[shape])(request, reply)

    async with scripted_upstream(play) as upstream:
        url = upstream.url.removesuffix("/v1")
        async with live_router(folder, manifest(url), cold_start_seconds=0) as router:
            turns = asyncio.Semaphore(32)

            async def ask(cell: Cell) -> httpx.Response:
                front = FRONTS[cell.front]
                async with turns:
                    return await router.client.post(front.path, json=front.body(cell.model, cell.stream))

            replies = await asyncio.gather(*map(ask, CELLS))
            health = router.services.health.snapshot()
    with sqlite3.connect(folder / "models.db") as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("select * from usage")]
    database.close()
    records = {}
    for cell, reply in zip(CELLS, replies, strict=True):
        front, name = FRONTS[cell.front], reply.headers["x-request-id"]
        streamed = cell.stream and reply.status_code == 200
        read = front.stream(reply.content) if streamed else front.whole(reply.content)
        state = health[f"{cell.model}@{cell.shape}"]
        mine = [row for row in rows if row["request_id"] == name]
        records[cell] = Record(reply, read, seen[name], mine, state.failure_rate, state.available)
    return records


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[Cell, Record]:
    """What came of all cells, asked once."""
    return asyncio.run(run(tmp_path_factory.mktemp("cluster")))


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_alone_is_told_by_its_meaning(records: dict[Cell, Record], shape: str) -> None:
    """The client gets its protocol's error with the status, code and `Retry-After` of what happened, and one row."""
    for cell in (cell for cell in CELLS if cell.shape == shape and not cell.paired):
        record, fate, front = records[cell], fate_of(shape, cell.stream), FRONTS[cell.front]
        assert record.read.problems == [], (cell, record.reply.content)
        (row,) = record.rows
        if fate.alone == "cut":
            assert (record.reply.status_code, record.read.ended) == (200, False), cell
            assert (record.read.text, record.read.error) == ("one two", front.code("stream_interrupted", 200)), cell
            assert row["error"] == "stream_interrupted"
            assert row["completion_tokens"] > 0
        else:
            status, code = fate.alone.split()
            assert record.reply.status_code == front.status(int(status)), (cell, record.reply.content)
            assert code == "None" or record.read.error == front.code(code, record.reply.status_code), cell
            assert record.reply.headers.get("retry-after") == fate.wait, cell
            assert (row["status"], row["completion_tokens"], row["cost_usd"]) == (int(status), None, None), cell
        assert record.seen == fate.tries, cell


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_falls_over_where_somebody_else_can_answer(records: dict[Cell, Record], shape: str) -> None:
    """The client gets one whole answer, and of the failure nothing; what is its own fault is told at once."""
    for cell in (cell for cell in CELLS if cell.shape == shape and cell.paired):
        record, fate = records[cell], fate_of(shape, cell.stream)
        assert record.read.problems == [], (cell, record.reply.content)
        (row,) = record.rows
        assert record.seen == 1, cell
        if fate.alone == "cut" and cell.front == "completions":
            # Nobody can be asked to go on with a text that has no turns.
            assert (record.read.text, record.read.ended) == ("one two", False), cell
        elif fate.falls:
            assert (record.read.text, record.read.ended, record.read.error) == (TEXT, True, None), cell
            assert row["error"] is None
            assert len(json.loads(row["attempts"])) == 2
            assert fate.alone == "cut" or row["usage_source"] == "reported", cell
        else:
            assert record.reply.status_code == int(fate.alone.split()[0]), cell


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_counts_against_health_only_where_it_is_a_fault(records: dict[Cell, Record], shape: str) -> None:
    """A full queue, a pool that starts and a caller's mistake are no faults; a model that is missing rests at once."""
    for cell in (cell for cell in CELLS if cell.shape == shape):
        record, fate = records[cell], fate_of(shape, cell.stream)
        assert (record.failure_rate > 0) == fate.fault, cell
        assert record.available != (fate is MISSING), cell


def test_no_answer_tells_what_is_the_clusters_own(records: dict[Cell, Record]) -> None:
    """Neither body nor headers name a pod, a service or an inner header."""
    for cell, record in records.items():
        told = record.reply.text + str(record.reply.headers)
        assert [word for word in INNER if word in told.lower()] == [], (cell, told)
        assert record.reply.headers.get("server") != "envoy"


# --- what follows from it -----------------------------------------------------------------------------------


async def asked_six_times(folder: Path, shape: str, breaker: str) -> tuple[ScriptedUpstream, list[str]]:
    """Return the cluster that always fails in one way, and who answered each of six requests."""
    async with scripted_upstream(SHAPES[shape]) as cluster, scripted_upstream(serve) as other:
        text = manifest_for(cluster.url, other.url, breaker=breaker).replace("tier: external", "tier: cluster", 1)
        async with live_router(folder, text) as router:
            answers = [await router.chat() for _ in range(6)]
    return cluster, [answer.headers["x-router-backend"] for answer in answers]


@pytest.mark.parametrize(
    ("shape", "requests"),
    [("saturated", 6), ("queue_full", 6), ("denied", 6), ("envoy_reset", 2), ("no_model", 1), ("no_model_silent", 1)],
)
async def test_breaker_opens_on_faults_alone(tmp_path: Path, shape: str, requests: int) -> None:
    """A lack of room never closes a cluster; a fault does in time, and a model that it lacks at once."""
    cluster, backends = await asked_six_times(tmp_path, shape, "{failures: 2, cooldown: 60}")
    assert backends == ["b1"] * 6
    assert len(cluster.requests) == requests


async def test_missing_endpoint_is_no_missing_model(tmp_path: Path) -> None:
    """A 404 without a word, for an endpoint that not all backends have, does not take the model from the others."""
    async with scripted_upstream(SHAPES["no_model_silent"]) as cluster:
        async with live_router(tmp_path, manifest_for(cluster.url)) as router:
            answer = await router.client.post("/v1/images/generations", json={"model": "m", "prompt": "x"})
            assert router.services.health.snapshot()["m@b0"].available
    assert answer.status_code == 404
