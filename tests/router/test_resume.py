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


LONG = ["Once", " upon", " a", " time", " there", " was", " a", " fox", "."]


def starts_over(words: list[str]) -> Script:
    """Return a script of a backend that takes no notice of the beginning that it is to continue."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        assert request.json["continue_final_message"] is True
        await tell(reply, words)
        await finish(reply, {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)})

    return script


@pytest.mark.parametrize("pieces", [LONG, ["".join(LONG)], [*"".join(LONG)]], ids=["words", "whole", "letters"])
async def test_backend_that_starts_over_instead_of_continuing_is_not_told_twice(
    tmp_path: Path, pieces: list[str]
) -> None:
    """What it says again is left out, as of an answer that was to begin anew; so is its usage the whole's."""
    async with scripted_upstream(cut_after(4, LONG)) as first, scripted_upstream(starts_over(pieces)) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            text, events, done = await streamed(router, stream_options={"include_usage": True})
    assert (text, done) == ("".join(LONG), True)
    coherent(events)
    usage = events[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, len(pieces))


@pytest.mark.parametrize(
    "words",
    [
        ["ha", "ha", "ha", "ha", "ha", "ha", "ha", "ha", "ha", "!"],
        ["No", ". ", "No", "."],
        ["Yes, yes", ", yes", ", yes", "."],
        ["Once upon", " a time, Once upon", " a dream."],
    ],
)
async def test_text_that_repeats_itself_is_continued(tmp_path: Path, words: list[str]) -> None:
    """A continuation that sounds like the beginning is not taken for one that starts over."""
    async with scripted_upstream(cut_after(len(words) // 2, words)) as first:
        async with scripted_upstream(continues(words)) as other:
            async with live_router(tmp_path, manifest(first.url, other.url)) as router:
                text, events, done = await streamed(router)
    assert (text, done) == ("".join(words), True)
    coherent(events)


async def test_log_probabilities_of_what_was_told_are_not_told_again(tmp_path: Path) -> None:
    """Each token of the answer has its log probability once, in a piece that is told in part too."""

    def piece(*tokens: str) -> dict[str, Any]:
        told = chunk({"content": "".join(tokens)})
        told["choices"][0]["logprobs"] = {"content": [{"token": token, "logprob": -0.5} for token in tokens]}
        return told

    def script_of(*pieces: tuple[str, ...], cut: bool) -> Script:
        async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
            await reply.start_stream()
            for tokens in pieces:
                await reply.event(piece(*tokens))
            if cut:
                reply.cut()
            else:
                await finish(reply, USAGE)

        return script

    one = script_of(("The",), (" quick",), cut=True)
    two = script_of(("The", " quick", " brown"), (" fox",), cut=False)
    async with scripted_upstream(one) as first, scripted_upstream(two) as other:
        async with live_router(tmp_path, manifest(first.url, other.url, capabilities="[chat, logprobs]")) as router:
            text, events, _ = await streamed(router, logprobs=True)
    assert text == "The quick brown fox"
    told = [event["choices"][0].get("logprobs") or {} for event in events if event.get("choices")]
    assert [token["token"] for one in told for token in one.get("content") or ()] == ["The", " quick", " brown", " fox"]


async def test_answer_under_a_grammar_is_never_prefilled(tmp_path: Path) -> None:
    """The grammar is that of the whole answer: the rest of it would be held to the wrong one."""
    async with scripted_upstream(cut_after(3)) as first, scripted_upstream(answers_anew()) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            text, _, done = await streamed(router, guided_regex="The .*")
        assert [request.json.get("continue_final_message") for request in other.requests] == [None]
    assert (text, done) == (TEXT, True)


@pytest.mark.parametrize("second", [continues, answers_anew], ids=["prefill", "replay"])
async def test_cut_streams_of_other_dialects_go_on(tmp_path: Path, second: Callable[[], Script]) -> None:
    """A client of the Messages or the Responses API notices the joint as little."""
    messages = {"model": "m", "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    responses = {"model": "m", "stream": True, "input": "Hi"}
    async with scripted_upstream(cut_after(4)) as first, scripted_upstream(second()) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            for path, body in (("/v1/messages", messages), ("/v1/responses", responses)):
                answer = await router.client.post(path, json=body)
                told = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
                texts = [event["delta"].get("text", "") for event in told if event["type"] == "content_block_delta"]
                texts += [event["delta"] for event in told if event["type"] == "response.output_text.delta"]
                assert "".join(texts) == TEXT, answer.text
                assert told[-1]["type"] in ("message_stop", "response.completed")
                assert len({event["type"] for event in told if event["type"].endswith(("_start", "created"))}) <= 2


async def test_deadline_ends_the_search_for_somebody_who_goes_on(tmp_path: Path) -> None:
    """A second backend that is silent ends the stream with an error when the request's own time is over."""

    async def silent(request: SeenRequest, _reply: ScriptedReply) -> None:
        await asyncio.wait_for(request.closed_early.wait(), 30)

    async with scripted_upstream(cut_after(3)) as first, scripted_upstream(silent) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            text, events, done = await streamed(router, router={"deadline_ms": 600})
            assert (text, done) == ("".join(WORDS[:3]), False)
            assert events[-1]["error"]["code"] == "stream_interrupted"
            known = router.services.health.snapshot()
            assert [state.in_flight for state in known.values()] == [0, 0]
            assert [state.failure_rate > 0 for state in known.values()] == [True, False]


async def test_client_that_leaves_while_somebody_is_found_to_go_on_leaves_nothing_behind(tmp_path: Path) -> None:
    """The backend that was asked to continue sees the client go, and no request is counted as under way."""
    asked = asyncio.Event()

    async def silent(request: SeenRequest, _reply: ScriptedReply) -> None:
        asked.set()
        await asyncio.wait_for(request.closed_early.wait(), 30)

    async with scripted_upstream(cut_after(3)) as first, scripted_upstream(silent) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            client = asyncio.ensure_future(router.chat(stream=True))
            await asyncio.wait_for(asked.wait(), 10)
            client.cancel()
            await asyncio.wait_for(other.requests[0].closed_early.wait(), 10)
            (row,) = await usage_rows(tmp_path, 1)
            assert [state.in_flight for state in router.services.health.snapshot().values()] == [0, 0]
    assert (row["status"], row["error"]) == (499, "client_disconnected")
