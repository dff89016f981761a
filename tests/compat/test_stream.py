"""Chat completions, streamed: well formed for the strictest reader, whatever the upstream sends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from tests.support.sdk import HELLO, World, events, world
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, fail, say

BODY = {"model": "m", "messages": HELLO, "stream": True}
ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, "stop")
ODD = "Grüße, 世界 🌍 e\u0301"


def frames(text: str) -> list[str]:
    """Return the data of every event; every line of the stream must be one that the strictest reader takes."""
    assert text.endswith("\n\n")
    found = []
    for block in text[:-2].split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        assert len(lines) == 1, block
        assert lines[0].startswith("data: "), block
        found.append(lines[0][6:])
    return found


def text_of(chunks: list[Any]) -> str:
    """Return the text of the first choice."""
    return "".join(part.choices[0].delta.content or "" for part in chunks if part.choices)


async def raw(there: World, **fields: Any) -> tuple[list[dict[str, Any]], str]:
    """Stream; return the parsed events before `[DONE]`, and the last event."""
    answer = await there.router.client.post("/v1/chat/completions", json={**BODY, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in answer.headers
    *data, last = frames(answer.text)
    return [json.loads(item) for item in data], last


async def test_stream_keeps_the_grammar_of_the_protocol(tmp_path: Path) -> None:
    """Valid chunks, the role first, one id and time, one finish reason, `[DONE]` once and last, no length."""
    async with world(tmp_path, say("one two three")) as there:
        chunks, last = await raw(there)
        assert last == "[DONE]"
        for item in chunks:
            ChatCompletionChunk.model_validate(item)
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert len({(item["id"], item["created"], item["object"]) for item in chunks}) == 1
        reasons = [choice["finish_reason"] for item in chunks for choice in item["choices"]]
        assert [reason for reason in reasons if reason] == ["stop"]
        assert reasons[-1] == "stop"
        assert text_of(await there.stream()) == "one two three"


async def test_usage_comes_only_if_asked(tmp_path: Path) -> None:
    """One chunk without choices before the end; nobody else sees usage, though the router itself asks."""
    async with world(tmp_path) as there:
        asked = await there.stream(stream_options={"include_usage": True})
        assert asked[-1].choices == []
        assert asked[-1].usage.total_tokens == 12
        assert [item.usage for item in asked[:-1]] == [None] * (len(asked) - 1)
        for options in ({}, {"stream_options": None}, {"stream_options": {"include_usage": False}}):
            chunks, _ = await raw(there, **options)
            assert all(item.get("usage") is None for item in chunks)
            assert all(item["choices"] for item in chunks)
            assert there.seen[-1].json["stream_options"] == {"include_usage": True}


async def test_usage_in_a_chunk_with_a_choice_is_told_as_the_protocol_says(tmp_path: Path) -> None:
    """Backends that put the usage into the last choice's chunk give no usage to a client that did not ask."""
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    script = events(ROLE, chunk({"content": "a"}), chunk({}, "stop", usage=usage))
    async with world(tmp_path, script) as there:
        chunks, _ = await raw(there)
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert all(item.get("usage") is None for item in chunks)


async def test_done_is_sent_once_and_last(tmp_path: Path) -> None:
    """An upstream that forgets it, repeats it, or talks on after it makes no difference."""
    scripts = (
        events(ROLE, chunk({"content": "a"}), STOP, done=False),
        events(ROLE, chunk({"content": "a"}), STOP, "[DONE]", "[DONE]"),
        events(ROLE, chunk({"content": "a"}), STOP, "[DONE]", chunk({"content": "late"}), done=False),
    )
    async with world(tmp_path) as there:
        for script in scripts:
            there.upstreams[0].script = script
            answer = await there.router.client.post("/v1/chat/completions", json=BODY)
            assert frames(answer.text).count("[DONE]") == 1
            assert frames(answer.text)[-1] == "[DONE]"
            assert "late" not in answer.text


async def test_choices_and_logprobs_arrive_interleaved(tmp_path: Path) -> None:
    """Two choices at once, each with its index, its logprobs and its own finish."""

    def part(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        whole = chunk(delta, finish)
        whole["choices"][0] |= {"index": index, "logprobs": logprobs}
        return whole

    token: Any = {"content": [{"token": "a", "logprob": -1.0, "bytes": None, "top_logprobs": []}], "refusal": None}
    script = events(
        part(0, {"role": "assistant", "content": ""}),
        part(1, {"role": "assistant", "content": ""}),
        part(1, {"content": "b"}),
        part(0, {"content": "a"}, None, token),
        part(0, {}, "stop"),
        part(1, {}, "length"),
    )
    async with world(tmp_path, script) as there:
        chunks = await there.stream(n=2, logprobs=True)
        assert [item.choices[0].index for item in chunks] == [0, 1, 1, 0, 0, 1]
        assert chunks[3].choices[0].logprobs.content[0].token == "a"
        assert [item.choices[0].finish_reason for item in chunks[-2:]] == ["stop", "length"]


async def test_reasoning_and_refusal_deltas_pass(tmp_path: Path) -> None:
    """Fields of a delta that the protocol does not know, and those that it does."""
    script = events(
        ROLE,
        chunk({"reasoning_content": "Hm"}),
        chunk({"reasoning": "so", "reasoning_details": [{"a": 1}]}),
        chunk({"refusal": "No."}),
        chunk({}, "content_filter"),
    )
    async with world(tmp_path, script) as there:
        chunks = await there.stream()
        assert chunks[1].choices[0].delta.reasoning_content == "Hm"
        assert chunks[2].choices[0].delta.reasoning_details == [{"a": 1}]
        assert chunks[3].choices[0].delta.refusal == "No."


def _data(item: Any) -> bytes:
    return json.dumps(item, ensure_ascii=False).encode()


AZURE = chunk(None, prompt_filter_results=[{"prompt_index": 0}]) | {"id": "", "model": ""}

WRITINGS: dict[str, list[bytes]] = {
    "split code points": [
        bytes([byte]) for byte in b"data: " + _data(chunk({"role": "assistant", "content": ODD})) + b"\n\n"
    ],
    "crlf": [b"data: " + _data(chunk({"role": "assistant", "content": ODD})) + b"\r\n\r\n"],
    "cr": [b"data: " + _data(chunk({"role": "assistant", "content": ODD})) + b"\r\r"],
    "no space": [b"data:" + _data(chunk({"role": "assistant", "content": ODD})) + b"\n\n"],
    "comments": [
        b": PROCESSING\n\n",
        b": x\ndata: " + _data(chunk({"role": "assistant", "content": ODD})) + b"\n\n",
        b":\n\n",
    ],
    "other fields": [b"id: 7\nretry: 10\ndata: " + _data(chunk({"role": "assistant", "content": ODD})) + b"\n\n"],
    "event name": [b"event: message\ndata: " + _data(chunk({"role": "assistant", "content": ODD})) + b"\n\n"],
    "azure": [b"data: " + _data(AZURE) + b"\n\n", b"data: " + _data(chunk({"content": ODD})) + b"\n\n"],
    "no role": [b"data: " + _data(chunk({"content": ODD})) + b"\n\n"],
    "bom": [b"\xef\xbb\xbfdata: " + _data(chunk({"content": ODD})) + b"\n\n"],
    "empty data": [b"data:\n\n", b"data: " + _data(chunk({"content": ODD})) + b"\n\n"],
    "data in two lines": [
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",\ndata: "choices":'
        + _data([{"index": 0, "delta": {"content": ODD}, "finish_reason": None}])
        + b"}\n\n"
    ],
}


@pytest.mark.parametrize("name", WRITINGS)
async def test_every_writing_of_an_event_is_read(tmp_path: Path, name: str) -> None:
    """However an upstream writes its events, the SDK and a naive line reader get the same text."""
    async with world(tmp_path, events(*WRITINGS[name], STOP)) as there:
        assert text_of(await there.stream()) == ODD
        answer = await there.router.client.post("/v1/chat/completions", json=BODY)
        naive = ""
        for line in answer.text.splitlines():
            if line.startswith("data: ") and line != "data: [DONE]" and name != "data in two lines":
                for choice in json.loads(line[6:])["choices"]:
                    naive += choice["delta"].get("content") or ""
        assert naive == ODD or name == "data in two lines"


@pytest.mark.parametrize("name", WRITINGS)
async def test_every_event_is_written_strictly(tmp_path: Path, name: str) -> None:
    """What goes out is `data: ` and one line of JSON with a list of choices, nothing else."""
    async with world(tmp_path, events(*WRITINGS[name], STOP)) as there:
        chunks, last = await raw(there)
        assert all(isinstance(item["choices"], list) for item in chunks)
        assert last == "[DONE]"


async def test_ten_thousand_chunks_arrive(tmp_path: Path) -> None:
    """In order, none lost, none joined."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(ROLE)
        for start in range(0, 10_000, 100):
            part = b"".join(b"data: " + _data(chunk({"content": f"{n},"})) + b"\n\n" for n in range(start, start + 100))
            await reply.send(part)
        await reply.event(STOP)
        await reply.event("[DONE]")
        await reply.end_stream()

    async with world(tmp_path, script) as there:
        chunks = await there.stream()
        assert len(chunks) == 10_002
        assert text_of(chunks) == "".join(f"{n}," for n in range(10_000))


async def test_a_chunk_of_two_megabytes_arrives(tmp_path: Path) -> None:
    """One event of 2 MB is one event."""
    text = "ü" * (1024 * 1024)
    async with world(tmp_path, events(ROLE, chunk({"content": text}), STOP)) as there:
        assert text_of(await there.stream()) == text


@pytest.mark.parametrize("encoding", ["identity", "gzip, deflate, br, zstd"])
async def test_stream_is_delivered_as_it_comes(tmp_path: Path, encoding: str) -> None:
    """The second piece is written only after the client has read the first, compression accepted or not."""
    go_on = asyncio.Event()

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"role": "assistant", "content": "first"}))
        await go_on.wait()
        await reply.event(chunk({"content": " second"}))
        await reply.event(STOP)
        await reply.event("[DONE]")
        await reply.end_stream()

    async with world(tmp_path, script) as there:
        text = ""
        async for part in await there.ask(stream=True, extra_headers={"accept-encoding": encoding}):
            text += part.choices[0].delta.content or ""
            if text == "first":
                go_on.set()
        assert text == "first second"


async def test_silence_before_and_within_an_answer_is_waited_out(tmp_path: Path) -> None:
    """Six seconds of nothing are not an error, wherever they come."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        early = request.json["messages"][0]["content"] == "early"
        await reply.start_stream()
        await asyncio.sleep(6 if early else 0)
        await reply.event(chunk({"role": "assistant", "content": "a"}))
        await asyncio.sleep(0 if early else 6)
        await reply.event(chunk({"content": "b"}, "stop"))
        await reply.event("[DONE]")
        await reply.end_stream()

    async with world(tmp_path, script) as there:
        asking = [there.stream(messages=[{"role": "user", "content": when}]) for when in ("early", "late")]
        assert [text_of(chunks) for chunks in await asyncio.gather(*asking)] == ["ab", "ab"]


async def test_error_before_the_first_byte_has_its_status(tmp_path: Path) -> None:
    """A stream that never began is a plain HTTP error, of the SDK's right class."""
    limited = fail(429, {"error": {"message": "slow down", "type": "rate_limit_error", "param": None, "code": "rl"}})
    async with world(tmp_path, limited) as there:
        with pytest.raises(openai.RateLimitError):
            await there.stream()
    refused = fail(400, {"error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "bad"}})
    async with world(tmp_path / "b", refused) as there:
        with pytest.raises(openai.BadRequestError) as caught:
            await there.stream()
        assert (caught.value.code, caught.value.param) == ("bad", "n")


BROKEN: dict[str, list[Any]] = {
    "cut": [],
    "error event": [{"error": {"message": "CUDA error", "type": "server_error", "code": 500}}],
    "named error event": [b'event: error\ndata: {"message": "engine died"}\n\n'],
    "malformed": [b"data: {not json\n\n"],
    "not utf-8": [b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n'],
}


@pytest.mark.parametrize("name", BROKEN)
async def test_death_in_mid_stream_is_visible(tmp_path: Path, name: str) -> None:
    """The SDK raises its APIError: one error event with an object, no finish reason, no clean end."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"role": "assistant", "content": "half"}))
        for item in BROKEN[name]:
            await (reply.send(item) if isinstance(item, bytes) else reply.event(item))
        if BROKEN[name]:
            await reply.event("[DONE]")
            await reply.end_stream()
        reply.cut()

    async with world(tmp_path, script) as there:
        answer = await there.router.client.post("/v1/chat/completions", json=BODY)
        *_, last = [json.loads(item) for item in frames(answer.text)]
        assert set(last["error"]) == {"message", "type", "param", "code"}
        assert "[DONE]" not in answer.text
        assert '"finish_reason": "stop"' not in answer.text
        text = ""
        with pytest.raises(openai.APIError):
            async for part in await there.ask(stream=True):
                text += part.choices[0].delta.content or ""
        assert text == "half"
