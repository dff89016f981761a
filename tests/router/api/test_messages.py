"""Anthropic's clients on a live router: whatever the backend speaks, they get their own dialect."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from tests.support import anthropic_upstream as claude
from tests.support.anthropic_client import CLAUDE_CODE, SPEC, both, events_of, messages, texts_of
from tests.support.router import live_router, manifest_for
from tests.support.upstream import (
    Script,
    ScriptedReply,
    SeenRequest,
    chunk,
    completion,
    fail,
    say,
    scripted_upstream,
)
from tests.support.waiting import eventually


async def test_claude_codes_request_is_answered_by_any_backend(tmp_path: Path) -> None:
    """The same request goes to a chat backend as chat; the client gets its events and is told what was lost."""
    async with scripted_upstream(say("Hello you")) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            answer = await router.client.post("/v1/messages?beta=true", json=CLAUDE_CODE)
            seen = upstream.requests[0]
    assert seen.path == "/v1/chat/completions"
    body = seen.json
    assert [turn["role"] for turn in body["messages"]] == ["system", "user"]
    assert (body["model"], body["max_tokens"], body["reasoning_effort"]) == ("up-0", 32000, "medium")
    assert body["tools"][0]["function"]["name"] == "Bash"
    assert set(answer.headers["x-router-changes"].split(", ")) == {
        "context_management dropped",
        "cache_control dropped",
    }
    events = events_of(answer)
    assert [name for name, _ in events if name != "content_block_delta"] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(name == event["type"] for name, event in events)
    assert texts_of(answer) == "Hello you"
    assert b"[DONE]" not in answer.content


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_and_thoughts_come_back_as_blocks(tmp_path: Path, stream: bool) -> None:
    """A chat backend's reasoning and calls are blocks, and the counts are Anthropic's."""
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    said = {"reasoning_content": "hm", "content": None, "tool_calls": [call]}

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if not request.json.get("stream"):
            answer = completion("")
            answer["choices"][0] |= {"message": {"role": "assistant", **said}, "finish_reason": "tool_calls"}
            await reply.json(answer)
            return
        await reply.start_stream()
        for event in (chunk({"role": "assistant", **said}), chunk({}, "tool_calls"), "[DONE]"):
            await reply.event(event)
        await reply.end_stream()

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            answer = await messages(router, stream=stream, tools=[SPEC])
    if not stream:
        kinds = [block["type"] for block in answer.json()["content"]]
        reason = answer.json()["stop_reason"]
    else:
        told = events_of(answer)
        kinds = [event["content_block"]["type"] for name, event in told if name == "content_block_start"]
        reason = told[-2][1]["delta"]["stop_reason"]
    assert (kinds, reason) == (["thinking", "tool_use"], "tool_use")


async def test_a_fallback_may_speak_another_dialect(tmp_path: Path) -> None:
    """One Messages request: Anthropic fails, a chat backend answers, and the client sees one whole message."""
    async with scripted_upstream(claude.refuse(500, "api_error")) as bad, scripted_upstream(say("From chat")) as good:
        manifest = both(bad.url, good.url).replace("  - id: m\n", "  - id: m\n    fallbacks: [c]\n")
        async with live_router(tmp_path, manifest) as router:
            whole = await messages(router)
            streamed = await messages(router, stream=True)
    assert whole.json()["content"] == [claude.text("From chat")]
    assert texts_of(streamed) == "From chat"


async def test_a_servers_tool_stays_with_its_own_dialect(tmp_path: Path) -> None:
    """What only Anthropic runs makes no other backend a candidate."""
    search = [{"type": "web_search_20260318", "name": "web_search"}]
    async with scripted_upstream(claude.say("Found")) as native, scripted_upstream() as other:
        async with live_router(tmp_path, both(native.url, other.url)) as router:
            refused = await messages(router, model="c", tools=search)
            found = await messages(router, tools=search)
    assert (refused.status_code, other.requests) == (400, [])
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert found.json()["content"] == [claude.text("Found")]


@pytest.mark.parametrize(
    ("script", "status", "kind"),
    [
        (fail(429), 429, "rate_limit_error"),
        (fail(500), 502, "api_error"),
        (
            fail(400, {"error": {"message": "no", "type": "x", "param": None, "code": None}}),
            400,
            "invalid_request_error",
        ),
    ],
)
async def test_a_chat_backends_failure_is_told_in_the_clients_shape(
    tmp_path: Path, script: Script, status: int, kind: str
) -> None:
    """Whatever the backend speaks, an Anthropic client reads Anthropic's errors."""
    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            refused = await messages(router)
    assert (refused.status_code, refused.json()["error"]["type"]) == (status, kind)


async def test_a_client_that_leaves_ends_the_work(tmp_path: Path) -> None:
    """Whichever way a Messages request goes, the backend sees its client go."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        await request.closed_early.wait()

    async with scripted_upstream(script) as native, scripted_upstream(script) as other:
        async with live_router(tmp_path, both(native.url, other.url)) as router:
            for model, upstream in (("m", native), ("c", other)):
                for stream in (False, True):
                    asked = asyncio.ensure_future(messages(router, model=model, stream=stream))
                    await eventually(partial(bool, upstream.requests))
                    asked.cancel()
                    await asyncio.wait_for(upstream.requests.pop().closed_early.wait(), 10)
