"""Backends of the Anthropic dialect on a live router, for clients of the same and of chat."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import anthropic_upstream as claude
from tests.support.anthropic_client import CLAUDE_CODE, both, events_of, messages
from tests.support.router import live_router
from tests.support.upstream import ScriptedReply, SeenRequest, scripted_upstream

# --- native -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "/v1"])
async def test_claude_codes_request_passes_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Only the model changes; version, betas and query go along, the key is the backend's."""
    monkeypatch.setenv("CLAUDE_KEY", "upstream-secret")
    body = json.dumps(CLAUDE_CODE, indent=1).encode()
    beta = {"anthropic-beta": "claude-code-20250219,context-management-2025-06-27", "anthropic-version": "2099-01-01"}
    async with scripted_upstream(claude.say("Hello you")) as upstream:
        base = upstream.url.removesuffix("/v1") + suffix
        async with live_router(tmp_path, claude.manifest_for(base, api_key_env="CLAUDE_KEY")) as router:
            sent = {"x-api-key": "client-secret", "content-type": "application/json", **beta}
            answer = await router.client.post("/v1/messages?beta=true", content=body, headers=sent)
            seen = upstream.requests[0]
    assert seen.path == "/v1/messages?beta=true"
    assert seen.body == body.replace(b'"m"', b'"claude-up"', 1)
    assert {name: seen.headers[name] for name in beta} == beta
    assert seen.headers["x-api-key"] == "upstream-secret"
    assert "authorization" not in seen.headers
    assert answer.content == claude.written(*claude.events(claude.text("Hello you")))
    assert "x-router-changes" not in answer.headers


async def test_native_answer_passes_byte_for_byte_and_is_billed(tmp_path: Path) -> None:
    """A whole answer is the backend's own; cached tokens are among those that are billed."""
    told = json.dumps(claude.message(claude.thinking("t"), claude.text("é"), odd=1.50), indent=2).encode()

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.body(told, headers={"content-type": "application/json", "anthropic-ratelimit-tokens-limit": "9"})

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, claude.manifest_for(upstream.url)) as router:
            answer = await messages(router)
            seen = upstream.requests[0]
    assert answer.content == told
    assert answer.headers["anthropic-ratelimit-tokens-limit"] == "9"
    assert answer.headers["x-router-backend"] == "claude"
    assert float(answer.headers["x-router-cost-usd"]) == pytest.approx((7 * 1 + 5 * 2) / 1e6)
    assert seen.headers["anthropic-version"] == "2023-06-01"


async def test_count_tokens_is_counted_or_estimated(tmp_path: Path) -> None:
    """Anthropic counts itself; for any other backend the router estimates, asks nobody, and says so."""
    async with scripted_upstream(claude.say("x")) as native, scripted_upstream() as other:
        async with live_router(tmp_path, both(native.url, other.url)) as router:
            counted = await messages(router, "/v1/messages/count_tokens?beta=true", max_tokens=None)
            guessed = await messages(router, "/v1/messages/count_tokens", model="c", provider_specific_fields=None)
    assert counted.json() == {"input_tokens": 42}
    assert native.requests[0].path == "/v1/messages/count_tokens?beta=true"
    assert "x-router-changes" not in counted.headers
    assert guessed.json()["input_tokens"] > 0
    assert guessed.headers["x-router-changes"] == "input_tokens estimated"
    assert other.requests == []


@pytest.mark.parametrize("stream", [False, True])
async def test_an_overloaded_backend_is_told_as_529(tmp_path: Path, stream: bool) -> None:
    """The status that Anthropic's clients know is kept, with its shape and its wait."""
    script = claude.refuse(529, "overloaded_error", "Overloaded", {"retry-after": "7"})
    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, claude.manifest_for(upstream.url)) as router:
            refused = await messages(router, stream=stream)
    assert (refused.status_code, refused.headers["retry-after"]) == (529, "7")
    assert refused.json()["error"]["type"] == "overloaded_error"


async def test_a_rejection_reaches_the_client_once(tmp_path: Path) -> None:
    """A 400 about the request keeps type and words; there is exactly one try."""
    script = claude.refuse(400, "invalid_request_error", "max_tokens: too many")
    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, claude.manifest_for(upstream.url)) as router:
            refused = await messages(router)
            assert refused.status_code == 400
            error = {"type": "invalid_request_error", "message": "max_tokens: too many"}
            assert refused.json() == {"type": "error", "error": error, "request_id": refused.json()["request_id"]}
            chat = await router.chat()
            assert (chat.status_code, chat.json()["error"]["message"]) == (400, "max_tokens: too many")
    assert len(upstream.requests) == 2


async def test_a_mistake_is_told_in_the_dialects_shape(tmp_path: Path) -> None:
    """Bad bodies, unknown models and wrong methods are Anthropic's errors on Anthropic's routes."""
    async with live_router(tmp_path, claude.manifest_for("http://127.0.0.1:9")) as router:
        cases = [
            (await router.client.post("/v1/messages", content=b"{"), 400, "invalid_request_error"),
            (await messages(router, max_tokens="x"), 400, "invalid_request_error"),
            (await messages(router, model="nope"), 404, "not_found_error"),
            (await messages(router, "/v1/messages/count_tokens", model="nope"), 404, "not_found_error"),
            (await messages(router), 502, "api_error"),
        ]
    for answer, status, kind in cases:
        assert (answer.status_code, answer.json()["type"], answer.json()["error"]["type"]) == (status, "error", kind)


# --- failures ---------------------------------------------------------------------------------


def two(first: str, second: str) -> str:
    """Return a manifest with one model at two Anthropic backends, the first one first."""
    return f"""
backends:
  - {{name: one, dialect: anthropic, base_url: "{first}", tier: external}}
  - {{name: two, dialect: anthropic, base_url: "{second}", tier: external}}
models:
  - id: m
    deployments:
      - {{backend: one, upstream_model: u1, priority: 0, price: {{input: 1, output: 2}}}}
      - {{backend: two, upstream_model: u2, priority: 1, price: {{input: 1, output: 2}}}}
"""


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("silent", [1, 2, 3])
async def test_an_error_behind_a_good_head_falls_over(tmp_path: Path, silent: int, chat: bool) -> None:
    """A 200 that turns into an error before any output costs the client nothing: it sees the other's answer alone."""
    head = claude.events(claude.text("x"))[:silent]
    first = claude.stream(*head, claude.error("overloaded_error"))
    async with scripted_upstream(first) as bad, scripted_upstream(claude.say("Good one")) as good:
        async with live_router(tmp_path, two(bad.url, good.url)) as router:
            answer = await (router.chat(stream=True) if chat else messages(router, stream=True))
    assert answer.headers["x-router-backend"] == "two"
    if not chat:
        assert answer.content == claude.written(*claude.events(claude.text("Good one")))
    else:
        said = [event["choices"][0]["delta"].get("content") for _, event in events_of(answer) if event]
        assert "".join(text or "" for text in said) == "Good one"


async def test_a_cut_in_the_middle_is_told_in_an_event(tmp_path: Path) -> None:
    """After output there is one error event of the dialect, and no end that looks like one."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await claude.play(reply, *claude.events(claude.text("Half an answer"))[:5])
        await asyncio.sleep(0)
        reply.cut()

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, claude.manifest_for(upstream.url)) as router:
            answer = await messages(router, stream=True)
    names = [name for name, _ in events_of(answer)]
    assert (names[-1], names.count("error")) == ("error", 1)
    assert "message_stop" not in names


async def test_a_foreign_signature_never_reaches_the_client_as_a_400(tmp_path: Path) -> None:
    """Turn two of a signed conversation at another provider: its thoughts are left out, and that is told."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if b'"signature"' in request.body:
            words = "messages.1.content.0: Invalid `signature` in `thinking` block"
            await reply.json(claude.error("invalid_request_error", words), 400)
        else:
            await claude.say("Turn two")(request, reply)

    block = claude.thinking("t", "of another")
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [block, claude.text("a")]},
        {"role": "user", "content": "y"},
    ]
    told = [{"role": "assistant", "content": "a", "thinking_blocks": [block]}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, claude.manifest_for(upstream.url)) as router:
            native = await messages(router, messages=turns, thinking=thinking)
            chat = await router.chat(messages=[turns[0], *told, turns[2]], max_tokens=9)
    assert native.json()["content"] == [claude.text("Turn two")]
    assert native.headers["x-router-changes"] == "thinking blocks dropped, thinking set to disabled"
    assert chat.json()["choices"][0]["message"]["content"] == "Turn two"
    assert upstream.requests[1].json["messages"][1]["content"] == [claude.text("a")]


# --- chat clients on an Anthropic backend -----------------------------------------------------


async def test_chat_is_translated_and_tells_what_it_lost(tmp_path: Path) -> None:
    """An OpenAI client gets its own shape; the limit is the model's, and what changed is in a header."""
    facts = "    max_output_tokens: 777\n"
    async with scripted_upstream(claude.answer(claude.tool("f", {"x": 1}), stop="tool_use")) as upstream:
        async with live_router(tmp_path, claude.manifest_for(upstream.url, facts=facts)) as router:
            tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
            answer = await router.chat(tools=tools, seed=1, temperature=1.5)
            seen = upstream.requests[0]
    assert seen.path == "/v1/messages"
    assert seen.json == {
        "model": "claude-up",
        "max_tokens": 777,
        "messages": [{"role": "user", "content": [claude.text("Hi")]}],
        "temperature": 1,
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    }
    assert answer.headers["x-router-changes"] == "seed dropped, max_tokens set to 777, temperature set to 1"
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert (call["id"], call["function"]) == ("toolu_1", {"name": "f", "arguments": '{"x": 1}'})
    assert answer.json()["usage"]["prompt_tokens"] == 7


async def test_chat_stream_is_translated(tmp_path: Path) -> None:
    """Chunks, usage where it was asked for, and `[DONE]` last."""
    async with scripted_upstream(claude.answer(claude.thinking("hm"), claude.text("Hello you"))) as upstream:
        async with live_router(tmp_path, claude.manifest_for(upstream.url)) as router:
            answer = await router.chat(stream=True, stream_options={"include_usage": True}, max_tokens=5)
    events = [event for _, event in events_of(answer)]
    deltas = [event["choices"][0]["delta"] for event in events[:-2]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Hello you"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
    assert events[-2]["usage"]["total_tokens"] == 12
    assert events[-1] is None


async def test_a_field_of_a_wrong_shape_is_the_callers_mistake(tmp_path: Path) -> None:
    """What cannot be translated is a 400, and the backend is not asked."""
    async with scripted_upstream(claude.say("x")) as upstream:
        async with live_router(tmp_path, claude.manifest_for(upstream.url)) as router:
            odd = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "tool_calls": 5}]
            refused = await router.chat(messages=odd)
    assert (refused.status_code, upstream.requests) == (400, [])
