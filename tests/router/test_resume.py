"""resume: whatever is cut wherever, the client has one coherent answer or an error that it can see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.router.test_gateway import usage_rows
from tests.support.router import LiveRouter, live_router
from tests.support.upstream import Script, ScriptedReply, SeenRequest, chunk, scripted_upstream

WORDS = ["The", " quick", " brown", " föx", " jumps", " over", " 🐕", "."]
TEXT = "".join(WORDS)
USAGE = {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}


def manifest(*urls: str, capabilities: str = "[chat, tools, prefill]", idle: float = 5) -> str:
    """Return a manifest with one model of several deployments, in this order."""
    backends = "".join(
        f"  - {{name: b{n}, dialect: openai, base_url: '{url}', tier: external,\n"
        f"     timeouts: {{idle: {idle}}}, breaker: {{enabled: false}}}}\n"
        for n, url in enumerate(urls)
    )
    places = "".join(f"      - {{backend: b{n}, upstream_model: up-{n}, priority: {n}}}\n" for n, _ in enumerate(urls))
    return f"backends:\n{backends}models:\n  - id: m\n    capabilities: {capabilities}\n    deployments:\n{places}"


async def tell(reply: ScriptedReply, pieces: list[str], usage: Any = None, key: str = "content") -> None:
    """Stream pieces of text, with the role before."""
    await reply.start_stream()
    await reply.event(chunk({"role": "assistant", "content": ""}))
    for piece in pieces:
        await reply.event(chunk({key: piece}))


async def finish(reply: ScriptedReply, usage: Any) -> None:
    """End a stream as it should be."""
    await reply.event(chunk({}, "stop"))
    await reply.event(chunk(None, usage=usage))
    await reply.event("[DONE]")
    await reply.end_stream()


def cut_after(count: int, words: list[str] = WORDS, how: str = "cut") -> Script:
    """Return a script that breaks off behind a number of words."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await tell(reply, words[:count])
        if how == "error":
            await reply.event({"error": {"message": "engine died", "type": "server_error", "code": 500}})
            await reply.end_stream()
        elif how == "end":
            await reply.end_stream()
        elif how == "silence":
            await asyncio.sleep(30)
        else:
            reply.cut()

    return script


def continues(words: list[str] = WORDS) -> Script:
    """Return a script of a backend that continues the last assistant turn, as vLLM does."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        asked = request.json
        assert asked["continue_final_message"] is True
        assert asked["add_generation_prompt"] is False
        begun = asked["messages"][-1]
        assert begun["role"] == "assistant"
        rest = "".join(words).removeprefix(begun["content"])
        left = words[len(words) - len([w for w in words if w]) :]
        while "".join(left) != rest:
            left = left[1:]
        count = len(words) - len(left)
        await tell(reply, left)
        usage = {"prompt_tokens": 7 + count, "completion_tokens": len(left), "total_tokens": 7 + len(words)}
        await finish(reply, usage)

    return script


def answers_anew(words: list[str] = WORDS) -> Script:
    """Return a script of a backend that refuses to continue, and answers from the start."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if "continue_final_message" in request.json:
            await reply.json({"error": {"message": "unknown field", "type": "invalid_request_error"}}, 400)
            return
        await tell(reply, words)
        await finish(reply, USAGE)

    return script


async def streamed(live: LiveRouter, **body: Any) -> tuple[str, list[dict[str, Any]], bool]:
    """Return the text of a stream, its events, and whether it ended with `[DONE]`."""
    answer = await live.chat(stream=True, **body)
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    done = lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    told = [event["choices"][0]["delta"] for event in events if event.get("choices")]
    return "".join(delta.get("content") or "" for delta in told), events, done


def coherent(events: list[dict[str, Any]]) -> None:
    """Check what holds of the events of every whole stream."""
    told = [event for event in events if event.get("choices")]
    assert len({(event["id"], event["created"], event["model"]) for event in told}) == 1
    assert [event["choices"][0]["delta"].get("role") for event in told if "role" in event["choices"][0]["delta"]] == [
        "assistant"
    ]
    assert [event["choices"][0]["finish_reason"] for event in told if event["choices"][0]["finish_reason"]] == ["stop"]


@pytest.mark.parametrize("second", [continues, answers_anew], ids=["prefill", "replay"])
async def test_stream_cut_at_every_boundary_is_one_answer(tmp_path: Path, second: Callable[[], Script]) -> None:
    """Wherever the first backend dies, the text is that of an uncut answer, told once."""
    async with scripted_upstream() as first, scripted_upstream(second()) as other:
        async with live_router(tmp_path, manifest(first.url, other.url), attempts=4) as router:
            for count in range(1, len(WORDS) + 1):
                first.script = cut_after(count)
                text, events, done = await streamed(router, stream_options={"include_usage": True})
                assert (text, done) == (TEXT, True), count
                coherent(events)
                usage = events[-1]["usage"]
                assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (7, 8, 15)


@pytest.mark.parametrize("how", ["cut", "error", "end", "silence"])
async def test_stream_survives_every_kind_of_break(tmp_path: Path, how: str) -> None:
    """A reset, an error event, an end without `[DONE]` and silence are all continued."""
    async with scripted_upstream(cut_after(3, how=how)) as first, scripted_upstream(continues()) as other:
        async with live_router(tmp_path, manifest(first.url, other.url, idle=0.2)) as router:
            text, events, done = await streamed(router)
    assert (text, done) == (TEXT, True)
    coherent(events)
    assert not any("error" in event for event in events)


async def test_other_text_is_never_joined(tmp_path: Path) -> None:
    """A second answer that differs by one character before the joint is not shown; the client gets an error."""
    words = [*WORDS[:2], " Brown", *WORDS[3:]]
    async with scripted_upstream(cut_after(5)) as first, scripted_upstream(answers_anew(words)) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            text, events, done = await streamed(router)
    assert (text, done) == ("".join(WORDS[:5]), False)
    assert events[-1]["error"]["code"] == "stream_interrupted"


async def test_shorter_second_answer_is_never_joined(tmp_path: Path) -> None:
    """An answer that ends before the delivered text does is another answer."""
    async with scripted_upstream(cut_after(5)) as first, scripted_upstream(answers_anew(WORDS[:3])) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            text, events, done = await streamed(router)
    assert (text, done) == ("".join(WORDS[:5]), False)
    assert events[-1]["error"]["code"] == "stream_interrupted"


async def test_same_text_in_other_pieces_is_joined(tmp_path: Path) -> None:
    """Where the pieces begin and end does not matter, the characters do."""
    async with scripted_upstream(cut_after(4)) as first, scripted_upstream(answers_anew([*TEXT])) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            text, events, done = await streamed(router)
    assert (text, done) == (TEXT, True)
    coherent(events)


async def test_reasoning_is_replayed_and_not_prefilled(tmp_path: Path) -> None:
    """Nobody can be asked to continue a thought; who thinks the same again is believed."""

    async def thinks(_request: SeenRequest, reply: ScriptedReply) -> None:
        await tell(reply, ["Hm", "m."], key="reasoning_content")
        reply.cut()

    async def thinks_again(request: SeenRequest, reply: ScriptedReply) -> None:
        assert "continue_final_message" not in request.json
        await tell(reply, ["Hmm", ". So"], key="reasoning_content")
        await reply.event(chunk({"content": "42"}))
        await finish(reply, USAGE)

    async with scripted_upstream(thinks) as first, scripted_upstream(thinks_again) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            text, events, done = await streamed(router)
    assert (text, done) == ("42", True)
    thought = [event["choices"][0]["delta"].get("reasoning_content", "") for event in events]
    assert "".join(thought) == "Hmm. So"


async def _tool_call(_request: SeenRequest, reply: ScriptedReply) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
    await tell(reply, ["Let me see."])
    await reply.event(chunk({"tool_calls": [call]}))
    reply.cut()


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
        {"router": {"fallback": "off"}},
    ],
    ids=["tool call", "JSON mode", "two choices", "fallback off"],
)
async def test_what_nobody_can_continue_ends_with_one_error(tmp_path: Path, body: dict[str, Any]) -> None:
    """Tool calls behind their first delta, JSON, several choices, and a client that wants no other backend."""
    script = _tool_call if "tools" in body else cut_after(3)
    async with scripted_upstream(script) as first, scripted_upstream(answers_anew()) as other:
        capabilities = "[chat, tools, json_schema, prefill]"
        async with live_router(tmp_path, manifest(first.url, other.url, capabilities=capabilities)) as router:
            _, events, done = await streamed(router, **body)
        assert not other.requests
    assert [event for event in events if "error" in event] == events[-1:]
    assert events[-1]["error"]["code"] == "stream_interrupted"
    assert not done


async def test_tools_that_were_not_called_yet_do_not_hinder(tmp_path: Path) -> None:
    """Up to its first delta a tool call is nothing that could be cut in two."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with scripted_upstream(cut_after(3)) as first, scripted_upstream(continues()) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            text, _, done = await streamed(router, tools=tools)
    assert (text, done) == (TEXT, True)


async def test_stream_cut_behind_its_finish_reason_is_complete(tmp_path: Path) -> None:
    """All that is missing is `[DONE]`, and the client gets it."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await tell(reply, WORDS)
        await reply.event(chunk({}, "stop"))
        reply.cut()

    async with scripted_upstream(script) as first, scripted_upstream() as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            text, events, done = await streamed(router)
        assert not other.requests
    assert (text, done) == (TEXT, True)
    coherent(events)


async def test_only_backend_continues_its_own_answer(tmp_path: Path) -> None:
    """Where there is nobody else, the one that broke off is asked once more."""
    scripts = [cut_after(4), continues()]

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        await scripts.pop(0)(request, reply)

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest(upstream.url)) as router:
            text, events, done = await streamed(router)
    assert (text, done) == (TEXT, True)
    coherent(events)


async def test_second_break_is_survived_too(tmp_path: Path) -> None:
    """What the second backend said is kept as well, for the third."""

    async def continues_briefly(request: SeenRequest, reply: ScriptedReply) -> None:
        assert request.json["messages"][-1]["content"] == "".join(WORDS[:2])
        await tell(reply, WORDS[2:5])
        reply.cut()

    async with scripted_upstream(cut_after(2)) as one, scripted_upstream(continues_briefly) as two:
        async with scripted_upstream(continues()) as three:
            async with live_router(tmp_path, manifest(one.url, two.url, three.url)) as router:
                text, events, done = await streamed(router, max_tokens=20)
            assert three.requests[0].json["max_tokens"] == 20 - 5
    assert (text, done) == (TEXT, True)
    coherent(events)


async def test_continued_stream_is_billed_once(tmp_path: Path) -> None:
    """One usage row holds the tokens of the whole answer."""
    async with scripted_upstream(cut_after(3)) as first, scripted_upstream(continues()) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            await streamed(router)
            (row,) = await usage_rows(tmp_path, 1)
        assert (len(first.requests), len(other.requests)) == (1, 1)
    assert (row["prompt_tokens"], row["completion_tokens"], row["status"], row["error"]) == (7, 8, 200, None)
