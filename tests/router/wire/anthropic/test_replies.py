"""Messages answers as chat answers, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import Chunk, Usage
from router.wire.anthropic.replies import ReplyStream, parse_reply
from router.wire.decoders import EventStream
from router.wire.transcript import join_chunks
from shared.errors import ContextLengthExceeded, ServiceError, UpstreamRateLimited, UpstreamUnavailable
from shared.sse import DONE, SSEReader
from tests.support import anthropic_upstream as claude
from tests.support.properties import json_values, splits

USAGE = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=1)
BLOCKS = [
    claude.thinking("hm é"),
    claude.text("Hello you"),
    claude.tool("f", {"x": "ü", "y": [1]}),
    claude.tool("g", {}, id="toolu_2"),
]


def streamed(data: bytes, *, usage_asked: bool = True, pieces: list[bytes] | None = None) -> list[Chunk]:
    """Return the chunks of a whole stream, one read after the other."""
    decoder = EventStream(ReplyStream("up", None, 1, usage_asked))
    chunks = [chunk for piece in pieces or [data] for chunk in decoder.feed(piece)]
    if decoder.failure is not None:
        raise decoder.failure
    return [*chunks, *decoder.end()]


def said(chunks: list[Chunk]) -> list[Any]:
    """Return the JSON of the events in chunks, without `[DONE]`, which must be the last."""
    raw = b"".join(chunk.raw for chunk in chunks)
    assert raw.endswith(DONE)
    events = [event.data or b"" for event in SSEReader().feed(raw)]
    return [json.loads(data) for data in events[:-1]]


def test_parse_reply_translates_a_message() -> None:
    """Text, thinking with its signature, calls, the reason and the counts have their places."""
    completion = parse_reply(json.dumps(claude.message(*BLOCKS, stop="tool_use")).encode(), "up", None, 7)
    whole = json.loads(completion.body)
    assert (whole["id"], whole["object"], whole["created"], whole["model"]) == (
        "msg_script",
        "chat.completion",
        7,
        "claude-real",
    )
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == completion.finish_reason == "tool_calls"
    message = choice["message"]
    assert (message["content"], message["reasoning_content"], message["refusal"]) == ("Hello you", "hm é", None)
    assert message["thinking_blocks"] == [BLOCKS[0]]
    assert [(call["id"], call["function"]["name"]) for call in message["tool_calls"]] == [
        ("toolu_1", "f"),
        ("toolu_2", "g"),
    ]
    assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [{"x": "ü", "y": [1]}, {}]
    assert completion.usage == USAGE
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 1, "cache_write_tokens": 2}


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
        ("model_context_window_exceeded", "length"),
        ("what_comes_next", "stop"),
    ],
)
def test_reasons_are_told_in_openais_words(stop: str, finish: str) -> None:
    """Every stop reason has a finish reason, whole and streamed."""
    completion = parse_reply(json.dumps(claude.message(claude.text("x"), stop=stop)).encode(), "up", "mine", 1)
    assert completion.finish_reason == finish
    assert json.loads(completion.body)["model"] == "mine"
    chunks = said(streamed(claude.written(*claude.events(claude.text("x"), stop=stop))))
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == finish


def test_a_refusal_is_told_with_its_explanation() -> None:
    """What Anthropic says of a refusal is where OpenAI's clients look for it."""
    details = {"type": "refusal", "category": None, "explanation": "No."}
    body = claude.message(stop="refusal", stop_details=details)
    message = json.loads(parse_reply(json.dumps(body).encode(), "up", None, 1).body)["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == ("", "No.")
    *before, last, end = claude.events(stop="refusal")
    last["delta"]["stop_details"] = details
    choice = json.loads(join_chunks(data_of(streamed(claude.written(*before, last, end)))) or b"")["choices"][0]
    assert (choice["message"]["content"], choice["message"]["refusal"]) == ("", "No.")
    assert choice["finish_reason"] == "content_filter"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"type":"message"}', b'{"content": 5}', b"\xff"])
def test_parse_reply_takes_no_other_body_for_an_answer(body: bytes) -> None:
    """Garbage with status 200 is the backend's failure."""
    with pytest.raises(UpstreamUnavailable):
        parse_reply(body, "up", None, 1)


def test_stream_begins_with_the_role_and_ends_with_usage() -> None:
    """One id, the role first, one finish reason, the usage in a chunk of its own, each call by its number."""
    chunks = said(streamed(claude.written(*claude.events(*BLOCKS, stop="tool_use"))))
    assert {(chunk["id"], chunk["model"], chunk["created"]) for chunk in chunks} == {("msg_script", "claude-real", 1)}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]].count("tool_calls") == 1
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 12
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == sorted(call["index"] for call in calls)
    assert [(call["index"], call["id"]) for call in calls if "id" in call] == [(0, "toolu_1"), (1, "toolu_2")]
    assert all("name" not in call["function"] for call in calls if "id" not in call)
    assert [delta["thinking_blocks"] for delta in deltas if "thinking_blocks" in delta] == [[BLOCKS[0]]]


def test_stream_hides_usage_that_nobody_asked_for() -> None:
    """The counts are kept for the account, and no chunk tells them."""
    chunks = streamed(claude.written(*claude.events(claude.text("x"))), usage_asked=False)
    assert all("usage" not in chunk for chunk in said(chunks))
    assert [chunk.usage for chunk in chunks if chunk.usage] == [USAGE]


def test_only_output_commits() -> None:
    """The beginning, a ping and an empty block are no output; a piece of text, thought or call is."""
    feed = ReplyStream("up", None, 1, usage_asked=False).feed
    events = SSEReader().feed(claude.written(*claude.events(claude.text("x"), claude.tool("f", {}))))
    outputs = [any(chunk.output for chunk in feed(event)) for event in events]
    assert outputs == [False, False, False, True, False, True, False, True, False, False]


@pytest.mark.parametrize(
    ("kind", "words", "error"),
    [
        ("overloaded_error", "Overloaded", UpstreamUnavailable),
        ("api_error", "boom", UpstreamUnavailable),
        ("rate_limit_error", "slow down", UpstreamRateLimited),
        ("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", ContextLengthExceeded),
    ],
)
def test_an_error_event_is_the_backends_failure(kind: str, words: str, error: type[ServiceError]) -> None:
    """An error that comes as an event is raised, so that the next candidate may answer."""
    head = claude.events(claude.text("x"))[:2]
    decoder = EventStream(ReplyStream("up", None, 1, usage_asked=False))
    decoder.feed(claude.written(*head))
    with pytest.raises(error):
        decoder.feed(claude.written(claude.error(kind, words)))


def test_a_stream_without_its_end_is_no_answer() -> None:
    """Bytes that end before the message's reason to stop are a failure; behind it only the end is missing."""
    events = claude.events(claude.text("x"))
    with pytest.raises(UpstreamUnavailable):
        streamed(claude.written(*events[:-2]))
    cut, whole = streamed(claude.written(*events[:-1])), streamed(claude.written(*events))
    assert b"".join(chunk.raw for chunk in cut) == b"".join(chunk.raw for chunk in whole)
    assert [chunk.usage for chunk in cut if chunk.usage] == [chunk.usage for chunk in whole if chunk.usage]


def test_a_stream_of_nothing_but_its_end_is_no_answer() -> None:
    """No answer is made up where the backend gave none: another may."""
    with pytest.raises(UpstreamUnavailable, match="without an answer"):
        streamed(claude.written({"type": "message_stop"}))


def test_arguments_may_come_with_the_beginning() -> None:
    """A server that streams no arguments, but tells them at once, is understood."""
    call = {"type": "content_block_start", "index": 0, "content_block": claude.tool("f", {"a": 1})}
    events = claude.events(stop="tool_use")
    data = claude.written(*events[:2], call, {"type": "content_block_stop", "index": 0}, *events[2:])
    joined = json.loads(join_chunks(data_of(streamed(data))) or b"")
    assert json.loads(joined["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}


def data_of(chunks: list[Chunk]) -> list[bytes]:
    """Return the JSON of each event, without `[DONE]`."""
    raw = b"".join(chunk.raw for chunk in chunks)
    return [event.data or b"" for event in SSEReader().feed(raw)][:-1]


@given(st.data())
def test_any_split_of_a_stream_gives_the_same_events(data: st.DataObject) -> None:
    """The network may cut the bytes anywhere."""
    whole = claude.written(*claude.events(*BLOCKS, stop="tool_use"))
    pieces = data.draw(splits(whole))
    assert said(streamed(whole, pieces=pieces)) == said(streamed(whole))


@given(st.lists(st.dictionaries(st.text(max_size=3), json_values, max_size=3), min_size=1, max_size=3))
def test_streamed_arguments_equal_unstreamed_ones(arguments: list[dict[str, Any]]) -> None:
    """Joined, the pieces of every call are what the whole answer says, to the byte; ids and order too."""
    calls = [claude.tool(f"f{i}", value, id=f"toolu_{i}") for i, value in enumerate(arguments)]
    whole = json.loads(parse_reply(json.dumps(claude.message(*calls, stop="tool_use")).encode(), "up", None, 1).body)
    chunks = streamed(claude.written(*claude.events(*calls, stop="tool_use")))
    joined = json.loads(join_chunks(data_of(chunks)) or b"")
    assert joined["choices"][0]["message"]["tool_calls"] == whole["choices"][0]["message"]["tool_calls"]
