"""The router in front of what a real cluster said: vLLM on the CPU behind the chart's Envoy, to the byte."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from scripts.vllm.exchange import Exchange, converse
from scripts.vllm.model import SENTENCE
from scripts.vllm.scenes import ABOUT
from tests.support.cluster_recordings import billed, events_of, recording, recordings, replays, text_of
from tests.support.router import LiveRouter, live_router
from tests.support.upstream import ScriptedReply, ScriptedUpstream, SeenRequest, chunk, completion, scripted_upstream

HELLO = [{"role": "user", "content": "Hi"}]
ASKED_AGAIN = ("chat_stream_usage", "chat_stream", "chat", "chat_adapter", "chat_cut_to_length", "chat_continued")
OTHER_KINDS = ("completion", "completion_stream", "messages", "no_such_path")


class Fate(NamedTuple):
    """What a client is told of a recorded failure, where there is nobody else.

    Attributes:
        status: The status.
        code: The error's code.
        falls: Whether somebody else answers instead, where there is somebody.
    """

    status: int
    code: str
    falls: bool = True


FULL = Fate(503, "overloaded")
STARTING = Fate(503, "model_starting")
AWAY = Fate(503, "upstream_unavailable")
BROKEN = Fate(502, "upstream_unavailable")
LATE = Fate(504, "upstream_timeout")
TOO_LONG = Fate(400, "context_length_exceeded", falls=False)
FATES = {
    "prompt_too_long": TOO_LONG,
    "prompt_too_long_stream": TOO_LONG,
    "prompt_far_too_long": TOO_LONG,
    "answer_too_long": TOO_LONG,
    "unknown_model": Fate(502, "upstream_lacks_model"),
    "bad_value": Fate(400, "400", falls=False),
    "bad_type": Fate(400, "400", falls=False),
    "queue_full": FULL,
    "worker_stopped_whole": BROKEN,
    "worker_aborted_whole": BROKEN,
    "worker_draining": BROKEN,
    "worker_killed_whole": AWAY,
    "engine_killed_whole": BROKEN,
    "entrance_no_workers": STARTING,
    "entrance_refused": AWAY,
    "entrance_timeout": LATE,
    "entrance_picker_away": AWAY,
    "picker_saturated": FULL,
    "picker_saturated_unnamed": FULL,
    "picker_saturated_json": FULL,
    "picker_waited_too_long": FULL,
    "picker_no_endpoints": STARTING,
    "picker_no_endpoints_waited": FULL,
    "picker_shutting_down": AWAY,
    "picker_evicted": FULL,
    "picker_failed": BROKEN,
}
BROKEN_OFF = (
    "worker_stopped_stream",
    "worker_aborted_stream",
    "worker_killed_stream",
    "engine_killed_stream",
    "entrance_killed_stream",
    "picker_evicted_stream",
)
LISTS = {"models": 4096, "models_fitted": 1_048_448}
"""Recorded lists, and the context that each tells."""


def manifest(*urls: str, name: str = "recital", capabilities: str = "") -> str:
    """Return a manifest: the model at clusters, in this order."""
    lines = ["backends:"]
    lines += [f"  - {{name: b{n}, dialect: openai, base_url: '{url}', tier: cluster}}" for n, url in enumerate(urls)]
    places = (f"{{backend: b{n}, price: {{input: 1, output: 2}}, priority: {n}}}" for n, _ in enumerate(urls))
    about = f"id: {name}, context_length: 4096, capabilities: [{capabilities}]"
    return "\n".join([*lines, "models:", f"  - {{{about}, deployments: [{', '.join(places)}]}}"]) + "\n"


async def recites(request: SeenRequest, reply: ScriptedReply) -> None:
    """Answer as the recorded model would, had its worker lived: its sentence, from where a text breaks off."""
    asked = request.json
    said = asked["messages"][-1]["content"] if asked.get("continue_final_message") else ""
    rest = SENTENCE[len(said) % len(SENTENCE) :]
    if not asked.get("stream"):
        await reply.json(completion(rest))
        return
    await reply.start_stream()
    for event in (chunk({"content": rest}), chunk({}, "stop")):
        await reply.event(event)
    await reply.event("[DONE]")
    await reply.end_stream()


async def asked(router: LiveRouter, exchange: Exchange, **fields: Any) -> httpx.Response:
    """Ask what was asked when it was recorded, but for some fields; None leaves one out."""
    body = {**(exchange.ask.body or {"messages": HELLO}), **fields}
    path = exchange.ask.path if exchange.ask.body else "/v1/chat/completions"
    return await router.client.post(path, json={key: value for key, value in body.items() if value is not None})


def test_every_recording_is_played() -> None:
    """None is left over, and none is missing."""
    played = [*ASKED_AGAIN, *OTHER_KINDS, *FATES, *BROKEN_OFF, *LISTS, "worker_drained_stream"]
    assert sorted(played) == recordings() == sorted(ABOUT)


@pytest.mark.parametrize("name", recordings())
async def test_recording_is_played_to_the_byte(name: str) -> None:
    """Head, chunks and end come over the wire as they were recorded."""
    recorded = recording(name)
    async with scripted_upstream(replays(name)) as upstream:
        assert await converse(upstream.port, recorded.ask) == recorded


@pytest.mark.parametrize("name", recordings())
def test_recording_names_no_machine(name: str) -> None:
    """Neither paths nor addresses of where it was recorded are in it."""
    told = recording(name)
    text = told.body.decode() + str(told.headers)
    assert [word for word in ("/root", "/home", "/work", "/tmp", "127.0.0.1", "localhost") if word in text] == []


@pytest.mark.parametrize("name", LISTS)
async def test_list_of_models_is_discovered(tmp_path: Path, name: str) -> None:
    """The context that is in force is known, and an adapter has that of its parent; paths stay in the cluster."""
    async with scripted_upstream(replays("chat", {"/v1/models": name})) as cluster:
        async with live_router(tmp_path, llmd_endpoint=cluster.url) as router:
            for _ in range(2000):
                await router.refresh()
                if "recital" in router.services.catalog.current.models:
                    break
                await asyncio.sleep(0.005)
            listed = (await router.client.get("/v1/models")).json()
            answer = await router.chat(model="recital")
    found = {item["id"]: item for item in listed["data"] if "recital" in item["id"]}
    expected = ["recital", "recital-lora"] if name == "models" else ["recital"]
    assert sorted(found) == expected
    assert {item["context_length"] for item in found.values()} == {LISTS[name]}
    assert "root" not in json.dumps(listed)
    assert answer.headers["x-router-backend"] == "llmd"
    assert answer.content == recording("chat").body


@pytest.mark.parametrize("name", ["chat", "chat_adapter", "chat_cut_to_length", "chat_continued", "completion"])
async def test_answer_passes_to_the_byte(tmp_path: Path, name: str) -> None:
    """A whole answer is the worker's own, and its usage is billed."""
    recorded = recording(name)
    async with scripted_upstream(replays(name)) as cluster:
        name = recorded.ask.body["model"]
        async with live_router(tmp_path, manifest(cluster.url, name=name)) as router:
            answer = await asked(router, recorded)
    assert answer.status_code == 200
    assert answer.content == recorded.body
    (row,) = billed(tmp_path)
    used = json.loads(recorded.body)["usage"]
    assert (row["prompt_tokens"], row["completion_tokens"]) == (used["prompt_tokens"], used["completion_tokens"])
    assert (row["usage_source"], row["error"]) == ("reported", None)


@pytest.mark.parametrize("name", ["chat_stream_usage", "completion_stream", "worker_drained_stream"])
@pytest.mark.parametrize("wanted", [True, False], ids=["usage asked", "usage not asked"])
async def test_stream_passes_event_by_event(tmp_path: Path, name: str, wanted: bool) -> None:
    """Every event is the worker's own; the usage is always billed, and told only to those who ask."""
    recorded = recording(name)
    async with scripted_upstream(replays(name)) as cluster:
        async with live_router(tmp_path, manifest(cluster.url)) as router:
            answer = await asked(router, recorded, **({} if wanted else {"stream_options": None}))
            assert cluster.requests[0].json["stream_options"]["include_usage"] is True
    told = [event for event in recorded.events if wanted or '"choices":[]' not in event]
    assert events_of(answer.content) == told
    assert len(told) == len(recorded.events) - (not wanted)
    (row,) = billed(tmp_path)
    assert row["usage_source"] == "reported"
    assert row["completion_tokens"] == json.loads(recorded.events[-2])["usage"]["completion_tokens"]


async def test_stream_without_usage_is_billed_by_estimate(tmp_path: Path) -> None:
    """A worker that tells no usage although it is asked to is believed to have said what it said."""
    async with scripted_upstream(replays("chat_stream")) as cluster:
        async with live_router(tmp_path, manifest(cluster.url)) as router:
            answer = await asked(router, recording("chat_stream"))
    assert text_of(events_of(answer.content)) == SENTENCE
    (row,) = billed(tmp_path)
    assert row["usage_source"] == "estimated"
    assert row["completion_tokens"] > 0


async def test_anthropic_clients_are_served(tmp_path: Path) -> None:
    """Over chat where the backend declares nothing else, in the worker's own words where it does."""
    body = {"model": "recital", "max_tokens": 100, "messages": HELLO}
    async with scripted_upstream(replays("chat", {"/v1/messages": "messages"})) as cluster:
        async with live_router(tmp_path, manifest(cluster.url)) as router:
            over_chat = (await router.client.post("/v1/messages", json=body)).json()
        native = manifest(cluster.url, capabilities="chat, messages")
        async with live_router(tmp_path / "native", native) as router:
            own = (await router.client.post("/v1/messages", json=body)).json()
    assert over_chat["content"][0]["text"] == SENTENCE
    assert own == json.loads(recording("messages").body)


async def test_missing_path_is_told_in_openais_words(tmp_path: Path) -> None:
    """FastAPI's own `detail` becomes an error with all four keys."""
    async with scripted_upstream(replays("no_such_path")) as cluster:
        async with live_router(tmp_path, manifest(cluster.url)) as router:
            answer = await asked(router, recording("no_such_path"))
    assert answer.status_code == 404
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@dataclass
class Outcome:
    """What came of a failure."""

    answer: httpx.Response
    row: dict[str, Any]
    seen: int
    """How many requests the cluster saw."""
    other: bool
    """Whether somebody else was asked."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Outcome]:
    """What came of every failure, alone and where there is somebody else, asked once of one router."""
    return asyncio.run(_outcomes(tmp_path_factory.mktemp("cluster")))


async def _outcomes(folder: Path) -> dict[tuple[str, bool], Outcome]:
    seen: list[tuple[str, str]] = []
    scripts = {name: replays(name) for name in FATES}

    async def play(request: SeenRequest, reply: ScriptedReply) -> None:
        place = request.path.split("/")[1]
        seen.append((request.headers["x-request-id"], place))
        await scripts.get(place, recites)(request, reply)

    async with scripted_upstream(play) as upstream:
        base = upstream.url.removesuffix("/v1")
        backends = [
            f"  - {{name: {name}, dialect: openai, base_url: '{base}/{name}/v1', tier: cluster}}"
            for name in [*FATES, "other"]
        ]
        models = []
        for name in FATES:
            for model, places in ((name, [name]), (f"{name}-paired", [name, "other"])):
                told = ", ".join(f"{{backend: {place}, priority: {n}}}" for n, place in enumerate(places))
                models.append(f"  - {{id: {model}, context_length: 4096, deployments: [{told}]}}")
        text = "\n".join(["backends:", *backends, "models:", *models]) + "\n"
        async with live_router(folder, text, cold_start_seconds=0) as router:
            found = {}
            for name in FATES:
                for paired in (False, True):
                    model = f"{name}-paired" if paired else name
                    found[name, paired] = await asked(router, recording(name), model=model, max_tokens=None)
    bills = {row["request_id"]: row for row in billed(folder)}
    told = {}
    for key, answer in found.items():
        mine = [place for request, place in seen if request == answer.headers["x-request-id"]]
        told[key] = Outcome(answer, bills[answer.headers["x-request-id"]], mine.count(key[0]), "other" in mine)
    return told


@pytest.mark.parametrize("name", FATES)
def test_failure_alone_is_told_by_its_meaning(outcomes: dict[tuple[str, bool], Outcome], name: str) -> None:
    """The client gets one OpenAI error, nothing of the cluster's inside, and is charged nothing."""
    outcome, fate = outcomes[name, False], FATES[name]
    error = outcome.answer.json()["error"]
    assert (outcome.answer.status_code, error["code"]) == (fate.status, fate.code)
    assert error.keys() == {"message", "type", "param", "code"}
    assert outcome.answer.headers.get("server") != "envoy"
    assert "x-llm-d-request-dropped-reason" not in outcome.answer.headers
    assert outcome.row["completion_tokens"] is None
    assert outcome.seen > 0


@pytest.mark.parametrize("name", FATES)
def test_failure_falls_over_where_somebody_else_can_answer(
    outcomes: dict[tuple[str, bool], Outcome], name: str
) -> None:
    """What is the caller's own fault is told at once; of all else the client hears nothing."""
    outcome, fate = outcomes[name, True], FATES[name]
    assert outcome.answer.status_code == (200 if fate.falls else fate.status)
    assert (outcome.seen, outcome.other) == (1, fate.falls)


async def broken_off(folder: Path, name: str, capabilities: str, *others: ScriptedUpstream) -> httpx.Response:
    """Return what a client gets of a stream that breaks off."""
    async with scripted_upstream(replays(name)) as cluster:
        text = manifest(cluster.url, *(other.url for other in others), capabilities=capabilities)
        async with live_router(folder, text, attempts=1 + len(others)) as router:
            return await asked(router, recording(name), stream_options=None)


@pytest.mark.parametrize("name", BROKEN_OFF)
async def test_broken_stream_alone_ends_with_an_error(tmp_path: Path, name: str) -> None:
    """It never ends with `[DONE]`, whatever the worker said, and is billed once for what was delivered."""
    answer = await broken_off(tmp_path, name, "")
    *told, last = events_of(answer.content)
    assert json.loads(last)["error"]["code"] == "stream_interrupted"
    assert not any("error" in json.loads(event) for event in told)
    delivered = text_of(told)
    assert delivered
    assert text_of([event for event in recording(name).events if '"error"' not in event]) == delivered
    (row,) = billed(tmp_path)
    assert row["error"] == "stream_interrupted"
    assert row["completion_tokens"] > 0


@pytest.mark.parametrize("name", BROKEN_OFF)
async def test_broken_stream_is_continued_elsewhere(tmp_path: Path, name: str) -> None:
    """The next worker goes on where the first one broke off: no character is missing and none comes twice."""
    async with scripted_upstream(recites) as other:
        answer = await broken_off(tmp_path, name, "chat, prefill", other)
    told = events_of(answer.content)
    text = text_of(told)
    assert told[-1] == "[DONE]"
    assert text == SENTENCE * (len(text) // len(SENTENCE))
    assert other.requests[0].json["continue_final_message"] is True
    (row,) = billed(tmp_path)
    assert row["error"] is None
