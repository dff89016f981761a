"""`/v1/responses` in front of backends that have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.router.api.responses_served import (
    CODEX,
    events_of,
    native_manifest,
    natively,
    response,
    serving,
    spoken,
    thought,
)
from tests.support.router import live_router
from tests.support.upstream import (
    ScriptedReply,
    SeenRequest,
    fail,
    scripted_upstream,
)


async def test_native_bytes_pass_in_both_directions(tmp_path: Path) -> None:
    """Where the backend speaks the API, only the model's name changes, and the router's own object goes."""
    whole = json.dumps(response("resp_up", spoken("Grüße")), ensure_ascii=False, indent=1).encode()

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.body(whole, headers={"content-type": "application/json"})

    async with serving(tmp_path, script, native=True) as served:
        sent = b'{ "input": "Hi \\u00e9",\n "router": {"fallback": true}, "model" : "m" , "odd":[1, 2]}'
        answer = await served.router.client.post("/v1/responses", content=sent)
        assert answer.content == whole
        assert served.upstream.requests[0].body == b'{ "input": "Hi \\u00e9", "model" : "up-0" , "odd":[1, 2]}'
        assert answer.headers["x-router-cost-usd"] == "0.000017"
        named = await served.post({"model": "auto", "input": "Hi"})
        assert named.json() == {**json.loads(whole), "model": "m"}


async def test_native_streams_pass_event_by_event(tmp_path: Path) -> None:
    """Events pass as they are, unknown ones too, and end with the terminal one."""
    async with serving(tmp_path, natively("resp_up", spoken("Hello")), native=True) as served:
        raw = await served.post({**CODEX, "stream": True})
        kinds = [event["type"] for event in events_of(raw.content)]
        assert kinds[:2] == ["response.created", "response.strange_news"]
        assert kinds[-1] == "response.completed"
        assert served.seen() == {**CODEX, "model": "up-0"}
        assert "x-router-changes" not in raw.headers
        named = events_of((await served.post({"model": "auto", "input": "Hi", "stream": True})).content)
        assert {event["response"]["model"] for event in named if "response" in event} == {"m"}


FAILED = {"code": "server_error", "message": "out of luck"}


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.failed", "response": response("resp_bad", status="failed", error=FAILED)},
        {"type": "error", **FAILED, "param": None},
        {"type": "error", "error": FAILED},
    ],
)
async def test_native_failure_before_output_falls_over(tmp_path: Path, event: dict[str, Any]) -> None:
    """A stream that fails before it said anything is another backend's to answer."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event({"type": "response.created", "response": response("resp_bad", status="in_progress")})
        await reply.event(event)
        await reply.end_stream()

    async with scripted_upstream(script) as bad, scripted_upstream(natively("resp_up", spoken("Saved"))) as good:
        async with live_router(tmp_path, native_manifest(bad.url, good.url)) as router:
            answer = await router.client.post("/v1/responses", json={"model": "m", "input": "Hi", "stream": True})
            assert b"resp_bad" not in answer.content
            assert events_of(answer.content)[-1]["response"]["id"] == "resp_up"
            assert answer.headers["x-router-attempts"] == "2"


async def test_native_turn_goes_where_the_response_is(tmp_path: Path) -> None:
    """A turn that follows goes to the backend that holds the response, untouched, and elsewhere when that is away."""
    async with (
        scripted_upstream(natively("resp_0", thought("s0"), spoken("Zero"))) as zero,
        scripted_upstream(natively("resp_1", spoken("One"))) as one,
    ):
        async with live_router(tmp_path, native_manifest(one.url, zero.url)) as router:
            working, one.script = one.script, fail(500)
            first = await router.client.post("/v1/responses", json={"model": "m", "input": "Hi"})
            assert first.json()["id"] == "resp_0"
            one.script = working
            body = {"model": "m", "input": "And?", "previous_response_id": "resp_0"}
            seen = len(one.requests)
            assert (await router.client.post("/v1/responses", json=body)).json()["id"] == "resp_0"
            assert zero.requests[-1].json == {**body, "model": zero.requests[-1].json["model"]}
            assert len(one.requests) == seen
            state = router.services.health.state("m@b1")
            assert state is not None
            zero.script = fail(500)
            while state.available:
                await router.client.post("/v1/responses", json=body)
            moved = await router.client.post("/v1/responses", json=body)
            assert moved.json()["id"] == "resp_1", moved.text
            sent = one.requests[-1].json
            assert "previous_response_id" not in sent
            # The backend gave both of its answers one id, so the conversation is that up to the second.
            said = [(item["role"], "id" in item) for item in sent["input"]]
            assert said == [("user", False), ("assistant", False)] * 2 + [("user", False)]
            changes = moved.headers["x-router-changes"]
            assert "previous_response_id expanded" in changes
            assert "input reasoning dropped" in changes


@pytest.mark.parametrize("stream", [False, True])
async def test_sealed_reasoning_goes_to_its_maker_or_nowhere(tmp_path: Path, stream: bool) -> None:
    """Encrypted reasoning reaches only the backend that made it; where that is away, it is left out and told."""
    made = [thought("sealed-by-zero"), spoken("Zero")]
    async with (
        scripted_upstream(natively("resp_0", *made)) as zero,
        scripted_upstream(natively("resp_1", spoken("One"))) as one,
    ):
        async with live_router(tmp_path, native_manifest(one.url, zero.url)) as router:
            working, one.script = one.script, fail(500)
            body: dict[str, Any] = {"model": "m", "input": "Hi", "store": False, "stream": stream}
            assert (await router.client.post("/v1/responses", json=body)).status_code == 200
            one.script = working
            body["input"] = [{"role": "user", "content": "Hi"}, *made, {"role": "user", "content": "And?"}]
            before = len(one.requests)
            assert b"resp_0" in (await router.client.post("/v1/responses", json=body)).content
            assert zero.requests[-1].json["input"] == body["input"]
            assert len(one.requests) == before
            zero.script = fail(500)
            state = router.services.health.state("m@b1")
            assert state is not None
            while state.available:
                await router.client.post("/v1/responses", json=body)
            moved = await router.client.post("/v1/responses", json=body)
            assert b"resp_1" in moved.content
            assert "sealed-by-zero" not in one.requests[-1].body.decode()
            assert [item["role"] for item in one.requests[-1].json["input"]] == ["user", "assistant", "user"]
            assert moved.headers["x-router-changes"] == "input reasoning dropped"


async def test_conversation_goes_where_it_is(tmp_path: Path) -> None:
    """A backend's conversation is gone on with at that backend."""
    async with (
        scripted_upstream(natively("resp_0", spoken("Zero"))) as zero,
        scripted_upstream(natively("resp_1", spoken("One"))) as one,
    ):
        async with live_router(tmp_path, native_manifest(one.url, zero.url)) as router:
            working, one.script = one.script, fail(500)
            body = {"model": "m", "input": "Hi", "conversation": "conv_1", "store": False}
            assert (await router.client.post("/v1/responses", json=body)).json()["id"] == "resp_0"
            one.script = working
            assert (await router.client.post("/v1/responses", json=body)).json()["id"] == "resp_0"
            assert zero.requests[-1].json["conversation"] == "conv_1"


async def test_response_under_way_is_not_told_from_memory(tmp_path: Path) -> None:
    """A response that a backend makes in the background has only begun, and the router says so."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json(response("resp_up", status="queued"))

    async with serving(tmp_path, script, native=True) as served:
        made = await served.post({"model": "m", "input": "Hi", "background": True})
        assert made.json()["status"] == "queued"
        assert (await served.router.client.get("/v1/responses/resp_up")).status_code == 400


async def test_unknown_response_is_left_to_a_backend_that_may_know_it(tmp_path: Path) -> None:
    """An id that the router never saw passes to a backend with an API, and its refusal comes back as it is."""
    error = {"message": "Previous response with id 'resp_old' not found.", "type": "invalid_request_error"}
    told = {"error": {**error, "param": "previous_response_id", "code": "previous_response_not_found"}}
    async with serving(tmp_path, fail(400, told), native=True) as served:
        refused = await served.post({"model": "m", "input": "Hi", "previous_response_id": "resp_old"})
        assert refused.json() == told
        assert served.seen()["previous_response_id"] == "resp_old"
