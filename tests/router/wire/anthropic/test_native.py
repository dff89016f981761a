"""What is already in the dialect passes byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import Chunk, Usage
from router.wire.anthropic.native import MessagesStream, forwarded_parts, parse_count, parse_message, without_thinking
from router.wire.anthropic.parse import parse_messages
from router.wire.decoders import EventStream
from shared.errors import UpstreamUnavailable
from tests.support import anthropic_upstream as claude
from tests.support.nouns import CALLER
from tests.support.properties import splits

USAGE = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=1)


def forwarded(body: bytes) -> tuple[bytes, list[str]]:
    """Return what goes to a backend for a client's body, and what was told."""
    parts, changes = forwarded_parts(parse_messages(body, "req_1", CALLER, {}), "up")
    return b"".join(parts), list(changes)


def test_forwarded_parts_change_the_model_alone() -> None:
    """Spaces, numbers as written, unknown fields and signatures stay; the router's own object goes."""
    body = b'{ "model" : "m","max_tokens":9, "router":{"policy":null}, "x":1.50, "messages":[{"role":"assistant",'
    body += b'"content":[{"type":"thinking","thinking":"t","signature":"abc"}]}]}'
    sent, changes = forwarded(body)
    assert sent == body.replace(b'"m"', b'"up"').replace(b', "router":{"policy":null}', b"")
    assert changes == []


def test_unsigned_thinking_does_not_reach_anthropic() -> None:
    """Thoughts of another model came without a signature; they are taken out, and that is told."""
    unsigned, signed = claude.thinking("t", ""), claude.thinking("u", "s")
    turns: list[Any] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [unsigned, claude.text("a")], "y": 1.5},
        {"role": "assistant", "content": [unsigned]},
        {"role": "assistant", "content": [signed]},
    ]
    sent, changes = forwarded(json.dumps({"model": "m", "max_tokens": 9, "messages": turns, "z": 1}).encode())
    kept = json.loads(sent)
    assert kept["messages"] == [turns[0], {**turns[1], "content": [claude.text("a")]}, turns[3]]
    assert kept["z"] == 1
    assert changes == ["unsigned thinking dropped"]


def test_without_thinking_takes_out_all_of_it() -> None:
    """Signed and redacted thoughts go too; a list without any is left alone."""
    redacted = {"type": "redacted_thinking", "data": "d"}
    turn = {"role": "assistant", "content": [claude.thinking("t"), redacted, claude.text("a")]}
    left = without_thinking(json.dumps([turn]).encode())
    assert json.loads(left or b"") == [{"role": "assistant", "content": [claude.text("a")]}]
    assert without_thinking(left or b"") is None


def test_parse_message_looks_without_touching() -> None:
    """The body stays as it is; usage and reason are read; a policy's name is put in where it must be."""
    body = json.dumps(claude.message(claude.text("é"), stop="max_tokens", unknown=1.50), indent=1).encode()
    answer = parse_message(body, None)
    assert (answer.body, answer.usage, answer.finish_reason) == (body, USAGE, "length")
    assert parse_message(body, "auto").body == body.replace(b'"claude-real"', b'"auto"')


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"type":"message","content":null}', b"\xff"])
def test_parse_message_takes_no_other_body_for_an_answer(body: bytes) -> None:
    """Garbage with status 200 is the backend's failure."""
    with pytest.raises(UpstreamUnavailable):
        parse_message(body, None)
    with pytest.raises(UpstreamUnavailable):
        parse_count(body)


def test_parse_message_finds_an_error_in_disguise() -> None:
    """An error with status 200 is an error."""
    with pytest.raises(UpstreamUnavailable, match="boom"):
        parse_message(json.dumps(claude.error("api_error", "boom")).encode(), None)


def streamed(pieces: list[bytes], reply_model: str | None = None) -> list[Chunk]:
    """Return the chunks of a stream."""
    decoder = EventStream(MessagesStream(reply_model))
    chunks = [chunk for piece in pieces for chunk in decoder.feed(piece)]
    return [*chunks, *decoder.end()]


@given(st.data())
def test_a_stream_passes_as_it_came_however_it_is_cut(data: st.DataObject) -> None:
    """Every byte reaches the client; usage, reason and end are seen on the way."""
    whole = claude.written(*claude.events(claude.thinking("t"), claude.text("a b"), claude.tool("f", {})))
    chunks = streamed(data.draw(splits(whole)))
    assert b"".join(chunk.raw for chunk in chunks) == whole
    assert [chunk.usage for chunk in chunks if chunk.usage][-1] == USAGE
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert [chunk.done for chunk in chunks if chunk.raw][-1]


@pytest.mark.parametrize(
    "way",
    [
        "data: {data}\n\n",
        "event:{name}\ndata:{data}\n\n",
        "event: {name}\r\ndata:{data}\n\n",
        "event: {name}\r\ndata: {data}\r\n\r\n",
        "data: {data}\nevent: {name}\n\n",
        "id: 7\nretry: 1\nevent: message\ndata: {data}\n\n",
        ": note\nevent: {name}\ndata: {first}\ndata: {rest}\n\n",
    ],
)
@pytest.mark.parametrize("reply_model", [None, "claude-real"])
def test_a_stream_is_written_as_anthropic_does_however_it_came(way: str, reply_model: str | None) -> None:
    """Clients that know one way of writing an event get that one, with the name of the event's type."""
    events = claude.events(claude.text("a b"), claude.tool("f", {"x": 1}))
    pieces = []
    for event in events:
        data = json.dumps(event)
        place = data.index(",") + 1 if "," in data else 1
        parts = {"first": data[:place], "rest": data[place:]}
        pieces.append(way.format(name=event["type"], data=data, **parts).encode())
    raw = b"".join(chunk.raw for chunk in streamed([b": hello\nid: 1\n\n", b"retry: 5\n\n", *pieces], reply_model))
    lines = raw.decode().split("\n")
    assert lines[:2] == [": ping", ""]
    assert len(lines) == 3 + 3 * len(events)
    for index, event in enumerate(events):
        name, data, end = lines[2 + 3 * index : 5 + 3 * index]
        assert (name, end) == (f"event: {event['type']}", "")
        assert json.loads(data.removeprefix("data: ")) == event


def test_a_stream_tells_a_policys_name_where_it_must() -> None:
    """The name stands in the message that the first event holds; nothing else changes."""
    whole = claude.written(*claude.events(claude.text("a")))
    raw = b"".join(chunk.raw for chunk in streamed([whole], "auto"))
    assert raw == whole.replace(b'"claude-real"', b'"auto"')


def test_only_output_commits() -> None:
    """The beginning, a ping and an empty block of text are held back; a call or a piece is not."""
    translation = MessagesStream(None)
    decoder = EventStream(translation)
    events = claude.events(claude.text("x"), claude.tool("f", {}))
    outputs = [any(chunk.output for chunk in decoder.feed(claude.written(event))) for event in events]
    assert outputs == [False, False, False, True, False, True, True, False, False, False]


def test_a_stream_without_its_last_event_gets_it() -> None:
    """Once the message has given its reason to stop, nothing but its end is missing."""
    events = claude.events(claude.text("x"))
    whole = b"".join(chunk.raw for chunk in streamed([claude.written(*events[:-1])]))
    assert whole.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def test_a_stream_without_its_end_or_with_an_error_is_no_answer() -> None:
    """A cut is a failure, and so is an error event."""
    events = claude.events(claude.text("x"))
    with pytest.raises(UpstreamUnavailable):
        streamed([claude.written(*events[:-2])])
    with pytest.raises(UpstreamUnavailable, match="boom"):
        streamed([claude.written(*events[:2]), claude.written(claude.error("api_error", "boom"))])
    with pytest.raises(UpstreamUnavailable):
        streamed([b"event: x\ndata: {oops\n\n"])
    with pytest.raises(UpstreamUnavailable, match="without an answer"):
        streamed([claude.written(events[-1])])


def test_an_answer_that_ends_without_a_reason_was_broken_off() -> None:
    """What vLLM cut short as it shut down it ends properly, but gives no reason to stop in this dialect."""
    events = claude.events(claude.text("x"))
    (end,) = [told for told in events if told["type"] == "message_delta"]
    cut = [{**told, "delta": {"stop_reason": None}} if told is end else told for told in events]
    with pytest.raises(UpstreamUnavailable, match="broke its answer off"):
        streamed([claude.written(*cut[:-1]), claude.written(cut[-1])])
    message = {"type": "message", "role": "assistant", "model": "up", "content": [{"type": "text", "text": "x"}]}
    with pytest.raises(UpstreamUnavailable, match="broke its answer off"):
        parse_message(json.dumps(message).encode(), None)
