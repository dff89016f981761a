"""A cluster that has scaled to zero: who else answers, who waits, for how long, and what wakes it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.router.api.test_chat import assert_openai_error
from tests.router.test_gateway import usage_rows
from tests.support.llmd_upstream import SHAPES, WORDS, Pool, llmd_pool, serve
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import Script, ScriptedReply, SeenRequest, chunk, scripted_upstream
from tests.support.waiting import eventually

TEXT = "".join(WORDS)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the router ask a cluster that starts every few milliseconds rather than seconds."""
    monkeypatch.setattr("router.retries._FIRST", 0.02)
    monkeypatch.setattr("router.retries._LONGEST", 0.05)
    monkeypatch.setattr("router.retries._LEAST", 0.005)


def cluster(*urls: str, **backend: Any) -> str:
    """Return a manifest whose first backend is a cluster, and all others external."""
    return manifest_for(*urls, **backend).replace("tier: external", "tier: cluster", 1)


def held(router: LiveRouter) -> float:
    """Return how many requests wait for the cluster, as a scrape tells it."""
    return router.services.metrics.get_sample_value("router_held_requests", {"backend": "b0"}) or 0


def said(answer: httpx.Response) -> str:
    """Return the text of an answer, whole or streamed."""
    if answer.headers["content-type"].startswith("application/json"):
        return str(answer.json()["choices"][0]["message"]["content"])
    events = [event[6:] for event in answer.text.split("\n\n") if event.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for e in events for choice in json.loads(e)["choices"])


def attempts_in(row: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return the attempts that a usage row knows of."""
    return [(attempt["deployment"], attempt["error"]) for attempt in json.loads(row["attempts"])]


# --- nobody else can answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", [False, True], ids=["refuses", "queues"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_request_waits_until_the_cluster_has_started(tmp_path: Path, stream: bool, queue: bool) -> None:
    """The first request of a cold cluster is answered, once and whole, by the cluster that it woke."""
    async with llmd_pool() as pool, live_router(tmp_path, cluster(pool.url)) as router:
        await router.chat(headers={"x-router-fallback": "off"})  # from now on the cluster is known to be cold
        pool.queue = queue
        asking = asyncio.ensure_future(router.chat(stream=stream))
        await eventually(lambda: pool.waits == 1 if queue else pool.asked >= 4)
        assert held(router) == 1
        pool.ready.set()
        answer = await asking
        assert (answer.status_code, said(answer)) == (200, TEXT)
        assert held(router) == 0
        waited = [] if queue else [("m@b0", "model_starting")]
        assert answer.headers["x-router-attempts"] == str(1 + len(waited))
    _, row = await usage_rows(tmp_path, 2)
    assert attempts_in(row) == [*waited, ("m@b0", None)]
    assert (row["completion_tokens"], row["usage_source"]) == (5, "reported")


async def test_stream_that_waits_gets_signs_of_life(tmp_path: Path) -> None:
    """The client's connection is kept open while the model starts."""
    async with llmd_pool() as pool, live_router(tmp_path, cluster(pool.url), ping_seconds=0.05) as router:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with router.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            text = ""
            async for piece in answer.aiter_text():
                text += piece
                if text == ": ping\n\n":
                    pool.ready.set()
    assert answer.status_code == 200
    assert text.startswith(": ping\n\n")
    assert text.endswith("data: [DONE]\n\n")


async def test_first_token_limit_does_not_cut_a_start_off(tmp_path: Path) -> None:
    """EPP's queue is silent for longer than a stream may be; where a start is known, that is no silence."""

    async def silent(request: SeenRequest, _reply: ScriptedReply) -> None:
        await request.closed_early.wait()

    async with llmd_pool() as pool, scripted_upstream(silent) as other:
        text = cluster(pool.url, other.url, timeouts="{first_token: 0.2}")
        text += "  - {id: silent, deployments: [{backend: b1, upstream_model: up}]}\n"
        async with live_router(tmp_path, text) as router:
            await router.chat(headers={"x-router-fallback": "off", "x-router-privacy": "cluster"})
            pool.queue = True
            asking = asyncio.ensure_future(router.chat(stream=True, headers={"x-router-privacy": "cluster"}))
            await eventually(lambda: pool.waits == 1)
            for _ in range(2):  # the same limit passes elsewhere, and passes again
                assert (await router.chat(stream=True, model="silent")).status_code == 504
            assert (asking.done(), pool.asked) == (False, 2)  # whoever asks again goes to the end of the queue
            pool.ready.set()
            assert said(await asking) == TEXT
            assert router.services.health.snapshot()["m@b0"].failure_rate == 0


STARTING_UP = ["no_endpoints", "envoy_reset", "saturated", "no_model", "envoy_timeout", "epp_fault"]


async def test_whatever_a_cluster_says_while_it_starts_is_waited_out(tmp_path: Path) -> None:
    """Pods that come up are reached too early, too often and by the wrong name; no breaker ends the wait."""
    count = 0

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        nonlocal count
        count += 1
        await (SHAPES[STARTING_UP[count - 1]] if count <= len(STARTING_UP) else serve)(request, reply)

    async with scripted_upstream(script) as upstream:
        text = cluster(upstream.url, breaker="{failures: 1, cooldown: 60}")
        async with live_router(tmp_path, text, attempts=1) as router:
            assert said(await router.chat()) == TEXT
            assert (await router.chat()).status_code == 200
    assert count == len(STARTING_UP) + 2


@pytest.mark.parametrize("queue", [False, True], ids=["refuses", "queues"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("by", ["setting", "wish"])
async def test_wait_is_bounded(tmp_path: Path, by: str, stream: bool, queue: bool) -> None:
    """By the setting, and by the request's own deadline; then the client is told what is and when to come again."""
    seconds = 0.3 if by == "setting" else 120
    # A whole answer that has begun to be asked for is a deadline's to end, not the wait's.
    wish = {"x-router-deadline-ms": "300"} if by == "wish" or queue else {}
    async with llmd_pool() as pool:
        async with live_router(tmp_path, cluster(pool.url), cold_start_seconds=seconds) as router:
            await router.chat(headers={"x-router-fallback": "off"})
            pool.queue = queue
            answer = await asyncio.wait_for(router.chat(stream=stream, headers=wish), 20)
            assert held(router) == 0
            state = router.services.health.snapshot()["m@b0"]
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert "starting" in assert_openai_error(answer, "model_starting")["message"]
    assert (state.available, state.failure_rate) == (True, 0)


@pytest.mark.parametrize(
    ("settings", "headers"),
    [({"cold_start_seconds": 0}, {}), ({}, {"x-router-fallback": "off"})],
    ids=["setting", "wish"],
)
async def test_nobody_waits_who_is_not_to(tmp_path: Path, settings: dict[str, Any], headers: dict[str, str]) -> None:
    """Where waiting is off, and where a single attempt was asked for, the client hears at once."""
    async with llmd_pool() as pool, live_router(tmp_path, cluster(pool.url), **settings) as router:
        for number in (1, 2):
            answer = await router.chat(headers=headers)
            assert_openai_error(answer, "model_starting")
            assert (answer.status_code, answer.headers["retry-after"], pool.asked) == (503, "10", number)


async def test_no_more_wait_than_there_is_room_for(tmp_path: Path) -> None:
    """One request beyond the bound is refused at once, and told when to come again; the others are answered."""
    async with llmd_pool() as pool, live_router(tmp_path, cluster(pool.url), cold_start_requests=3) as router:
        asking = [asyncio.ensure_future(router.chat()) for _ in range(3)]
        await eventually(lambda: held(router) == 3)
        refused = await router.chat()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert "too many requests wait" in assert_openai_error(refused, "model_starting")["message"]
        pool.ready.set()
        assert [said(answer) for answer in await asyncio.gather(*asking)] == [TEXT] * 3
        assert held(router) == 0
        assert (await router.chat()).status_code == 200


@pytest.mark.parametrize("queue", [False, True], ids=["refuses", "queues"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_client_that_leaves_waits_no_longer(tmp_path: Path, stream: bool, queue: bool) -> None:
    """Its place is free at once, and nobody asks the cluster for it any more."""
    async with llmd_pool() as pool, live_router(tmp_path, cluster(pool.url)) as router:
        await router.chat(headers={"x-router-fallback": "off"})
        pool.queue = queue
        asking = asyncio.ensure_future(router.chat(stream=stream))
        await eventually(lambda: held(router) == 1 and (pool.waits == 1 or not queue))
        asking.cancel()
        await eventually(lambda: held(router) == 0 and pool.waits == 0)
        rows = await usage_rows(tmp_path, 2)
        assert [row["error"] for row in rows] == ["model_starting", "client_disconnected"]
        assert router.services.metrics.get_sample_value("router_in_flight_requests") == 0


# --- somebody else can answer ---------------------------------------------------------------------------------


async def test_others_answer_first_while_a_cluster_starts(tmp_path: Path) -> None:
    """Who finds the cluster cold goes elsewhere, and so does everybody after, until one looks again."""
    async with llmd_pool() as pool, scripted_upstream(serve) as other:
        async with live_router(tmp_path, cluster(pool.url, other.url)) as router:
            answers = [await router.chat() for _ in range(5)]
            assert [answer.headers["x-router-backend"] for answer in answers] == ["b1"] * 5
            assert [answer.headers["x-router-attempts"] for answer in answers] == ["2", "1", "1", "1", "1"]
            assert pool.asked == 1
            health = router.services.health
            health.starting["m@b0"] = 0  # half a minute later
            assert (await router.chat()).headers["x-router-attempts"] == "2"
            assert (await router.chat()).headers["x-router-attempts"] == "1"
            assert pool.asked == 2
            pool.ready.set()
            health.starting["m@b0"] = 0
            assert (await router.chat()).headers["x-router-backend"] == "b0"
            assert (await router.chat()).headers["x-router-backend"] == "b0"
            assert held(router) == 0


async def test_cluster_is_waited_for_where_the_others_fail(tmp_path: Path) -> None:
    """A cold cluster is the last resort, and is one also when all attempts are spent elsewhere."""
    async with llmd_pool() as pool, scripted_upstream(SHAPES["envoy_reset"]) as other:
        async with live_router(tmp_path, cluster(pool.url, other.url), attempts=2) as router:
            await router.chat(headers={"x-router-fallback": "off", "x-router-privacy": "cluster"})
            asking = asyncio.ensure_future(router.chat())
            await eventually(lambda: held(router) == 1)
            assert len(other.requests) == 2
            pool.ready.set()
            assert said(answer := await asking) == TEXT
            assert answer.headers["x-router-backend"] == "b0"


async def test_cluster_that_could_not_take_the_prompt_is_not_waited_for(tmp_path: Path) -> None:
    """Where a prompt is too long for a larger model, a smaller one that is cold is no help."""
    async with llmd_pool() as pool, scripted_upstream(SHAPES["too_long"]) as other:
        text = cluster(pool.url, other.url).replace("  - id: m\n", "  - id: m\n    context_length: 64\n")
        async with live_router(tmp_path, text) as router:
            await router.chat(headers={"x-router-fallback": "off", "x-router-privacy": "cluster"})
            assert_openai_error(await router.chat(), "context_length_exceeded", "messages")
    assert (pool.asked, len(other.requests)) == (1, 1)


async def test_privacy_is_waited_for(tmp_path: Path) -> None:
    """What must not leave the cluster waits for it, whoever else is awake."""
    async with llmd_pool() as pool, scripted_upstream(serve) as other:
        async with live_router(tmp_path, cluster(pool.url, other.url)) as router:
            asking = asyncio.ensure_future(router.chat(headers={"x-router-privacy": "cluster"}))
            await eventually(lambda: held(router) == 1)
            pool.ready.set()
            assert (await asking).headers["x-router-backend"] == "b0"
    assert other.requests == []


async def test_server_elsewhere_without_endpoints_is_not_waited_for(tmp_path: Path) -> None:
    """An external provider whose proxy has nobody behind it is away: it is nobody's to wake."""
    async with scripted_upstream(SHAPES["envoy_none"]) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url, breaker="{failures: 2, cooldown: 60}")) as router:
            answers = [await router.chat() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503] * 3
    assert len(upstream.requests) == 2


# --- in the middle of an answer ---------------------------------------------------------------------------------


def continuing(pool: Pool) -> Script:
    """Return a script that breaks its first answer off, as the pool is shut down, and goes on when it is back."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if len(pool.upstream.requests) == 1:
            await SHAPES["sigterm"](request, reply)
        elif not pool.ready.is_set():
            await pool.refusal(request, reply)
        else:
            assert request.json["continue_final_message"]
            await reply.start_stream()
            for word in WORDS[2:]:
                await reply.event(chunk({"content": word}))
            await reply.event(chunk({}, "stop"))
            await reply.event("[DONE]")
            await reply.end_stream()

    return script


@pytest.mark.parametrize("back", [True, False], ids=["back", "gone"])
async def test_answer_that_a_scale_down_cut_goes_on_when_the_cluster_is_back(tmp_path: Path, back: bool) -> None:
    """It is whole, or ends with an error and without `[DONE]`; an error event before a `[DONE]` is no end."""
    async with llmd_pool() as pool:
        pool.upstream.script = continuing(pool)
        text = cluster(pool.url).replace("  - id: m\n", "  - id: m\n    capabilities: [chat, prefill]\n")
        async with live_router(tmp_path, text, cold_start_seconds=120 if back else 0.2) as router:
            asking = asyncio.ensure_future(router.chat(stream=True))
            await eventually(lambda: pool.asked >= 3)
            if back:
                assert held(router) == 1
                pool.ready.set()
            answer = await asking
            assert held(router) == 0
    (row,) = await usage_rows(tmp_path, 1)
    assert answer.text.endswith("data: [DONE]\n\n") == back
    if back:
        assert (said(answer), row["error"]) == (TEXT, None)
    else:
        assert row["error"] == "stream_interrupted"
        assert json.loads(answer.text.split("\n\n")[-2][6:])["error"]["code"] == "stream_interrupted"
