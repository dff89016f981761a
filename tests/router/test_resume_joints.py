"""resume: what makes two answers one, and what does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.router.test_gateway import usage_rows
from tests.router.test_resume import (
    TEXT,
    USAGE,
    WORDS,
    answers_anew,
    coherent,
    continues,
    cut_after,
    finish,
    manifest,
    streamed,
    tell,
)
from tests.support.router import live_router
from tests.support.upstream import Script, ScriptedReply, SeenRequest, chunk, scripted_upstream

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


@pytest.mark.parametrize(
    "delta",
    [
        {"content": [{"type": "text", "text": "Part"}]},
        {"content": None, "images": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
        {"reasoning_content": "Hm", "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]},
    ],
)
async def test_what_the_router_cannot_read_is_never_told_twice(tmp_path: Path, delta: dict[str, Any]) -> None:
    """A stream that said something in a form of its server's own is not joined to another."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await tell(reply, WORDS[:2])
        await reply.event(chunk(delta))
        reply.cut()

    async with scripted_upstream(script) as first, scripted_upstream(answers_anew()) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            answer = await router.chat(stream=True)
    *told, error = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert [event["choices"][0]["delta"] for event in told][1:] == [{"content": word} for word in WORDS[:2]] + [delta]
    assert error["error"]["code"] == "stream_interrupted"


async def test_empty_finish_reason_is_no_end(tmp_path: Path) -> None:
    """Some servers write an empty one into each chunk; a cut behind it is a cut all the same."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        for word in WORDS[:3]:
            await reply.event(chunk({"content": word}, ""))
        reply.cut()

    async with scripted_upstream(script) as first, scripted_upstream(continues()) as other:
        async with live_router(tmp_path, manifest(first.url, other.url)) as router:
            text, _, done = await streamed(router)
    assert (text, done) == (TEXT, True)
