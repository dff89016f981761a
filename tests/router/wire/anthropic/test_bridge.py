"""Chat answers as messages, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import Chunk, Completion, InferenceRequest
from router.wire.anthropic.bridge import MessagesBridge
from router.wire.anthropic.parse import parse_messages
from shared.errors import UpstreamUnavailable
from shared.sse import DONE, SSEReader, encode_event
from tests.support.nouns import CALLER
from tests.support.properties import json_values, text
from tests.support.upstream import chunk, completion

Blocks = list[dict[str, Any]]
arguments = st.dictionaries(text, json_values, max_size=2)


def asked(**fields: Any) -> InferenceRequest:
    """Return the request that a Messages body with these fields makes."""
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return parse_messages(json.dumps(body).encode(), "req_1", CALLER, {})


def whole(answer: dict[str, Any], **fields: Any) -> Any:
    """Return the message for a chat completion."""
    return json.loads(MessagesBridge(asked(**fields)).whole(Completion(json.dumps(answer).encode())).body)


def with_message(finish: str = "stop", **message: Any) -> dict[str, Any]:
    """Return a chat completion with this message."""
    answer = completion("")
    answer["choices"][0] |= {"message": {"role": "assistant", "content": None, **message}, "finish_reason": finish}
    return answer


def call(name: str, written: str | None, index: int | None = 0, id: str | None = None) -> dict[str, Any]:  # noqa: A002
    """Return a call, or a piece of one."""
    place = {} if index is None else {"index": index}
    return {**place, "id": id, "type": "function", "function": {"name": name or None, "arguments": written}}


def test_whole_answer_is_a_message() -> None:
    """Thoughts, text and calls are blocks in that order; reason and counts have their names."""
    answer = with_message("stop", content="Hi", reasoning_content="hm", tool_calls=[call("f", '{"x": 1}', id="c1")])
    details = {"prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 2}}
    answer["usage"] |= details
    assert whole(answer) == {
        "id": "msg_req_1",
        "type": "message",
        "role": "assistant",
        "model": "upstream-model",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "Hi"},
            {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 2},
        },
    }


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (with_message("stop", content="x"), "end_turn"),
        (with_message("length", content="x"), "max_tokens"),
        (with_message("content_filter", content="x"), "refusal"),
        (with_message("stop", refusal="no"), "refusal"),
        (with_message("tool_calls", tool_calls=[call("f", "")]), "tool_use"),
        (with_message("length", tool_calls=[call("f", "{")]), "max_tokens"),
    ],
)
def test_whole_answer_tells_why_it_ended(answer: dict[str, Any], reason: str) -> None:
    """Every finish reason has a stop reason."""
    assert whole(answer)["stop_reason"] == reason


def test_whole_answer_without_usage_gets_an_estimate() -> None:
    """The dialect demands counts."""
    answer = with_message(content="four four")
    answer.pop("usage")
    usage = whole(answer)["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (5, 3)


def test_thoughts_stay_hidden_from_who_does_not_want_them() -> None:
    """`display: omitted` and `disabled` are respected."""
    answer = with_message(content="x", reasoning="hm")
    for thinking in ({"type": "adaptive", "display": "omitted"}, {"type": "disabled"}):
        assert [block["type"] for block in whole(answer, thinking=thinking)["content"]] == ["text"]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"choices": []}', b'{"choices": [{"message": 5}]}'])
def test_whole_answer_that_is_none_is_a_failure(body: bytes) -> None:
    """A chat answer that cannot be read is the backend's fault."""
    with pytest.raises(UpstreamUnavailable):
        MessagesBridge(asked()).whole(Completion(body))


def streamed(*chunks: dict[str, Any], **fields: Any) -> list[tuple[str, Any]]:
    """Return the events that a chat stream becomes, each with its name."""
    bridge = MessagesBridge(asked(stream=True, **fields))
    raw = b"".join(bridge.feed(Chunk(encode_event(json.dumps(one).encode()))).raw for one in chunks)
    last = bridge.feed(Chunk(DONE, done=True))
    assert last.done
    events = [(event.event or "", json.loads(event.data or b"")) for event in SSEReader().feed(raw + last.raw)]
    assert all(name == event["type"] for name, event in events)
    return events


def joined(events: list[tuple[str, Any]]) -> tuple[Blocks, Any]:
    """Return the blocks that events add up to, each begun and ended in its place, and the last delta."""
    blocks: Blocks = []
    names = [name for name, _ in events]
    assert (names[0], names[-2:], names.count("message_delta")) == (
        "message_start",
        ["message_delta", "message_stop"],
        1,
    )
    opened = None
    for name, event in events[1:-2]:
        if name == "content_block_start":
            assert opened is None
            assert event["index"] == len(blocks)
            opened = event["index"]
            blocks.append({**event["content_block"], "said": ""})
            continue
        assert event["index"] == opened
        if name == "content_block_stop":
            opened = None
        else:
            delta = event["delta"]
            blocks[-1]["said"] += delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
    assert opened is None
    return blocks, events[-2][1]


def test_stream_becomes_messages_events() -> None:
    """Role, thoughts, text and calls come as blocks that follow each other; the end tells reason and counts."""
    events = streamed(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "h"}),
        chunk({"reasoning_content": "m"}),
        chunk({"content": "He"}),
        chunk({"content": "y", "tool_calls": [call("f", "", id="c1")]}),
        chunk({"tool_calls": [call("", '{"a"')]}),
        chunk({"tool_calls": [call("", ":1}")]}),
        chunk({"tool_calls": [call("g", "{}", 1, "c2")]}),
        chunk({}, "tool_calls"),
        chunk(None, usage={"prompt_tokens": 7, "completion_tokens": 5}),
    )
    blocks, end = joined(events)
    assert [(block["type"], block["said"]) for block in blocks] == [
        ("thinking", "hm"),
        ("text", "Hey"),
        ("tool_use", '{"a":1}'),
        ("tool_use", "{}"),
    ]
    assert [(block["id"], block["name"], block["input"]) for block in blocks[2:]] == [("c1", "f", {}), ("c2", "g", {})]
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"]) == (7, 5)
    started = events[0][1]["message"]
    assert (started["content"], started["stop_reason"], started["model"]) == ([], None, "upstream-model")


def test_stream_sorts_calls_that_come_mixed() -> None:
    """Pieces of several calls that take turns are told one call after the other, none lost."""
    blocks, _ = joined(
        streamed(
            chunk({"tool_calls": [call("f", "", 0, "c1"), call("g", "", 1, "c2")]}),
            chunk({"tool_calls": [call("", '{"a"', 0), call("", '{"b"', 1)]}),
            chunk({"content": "late"}),
            chunk({"tool_calls": [call("", ":1}", 0), call("", ":2}", 1)]}),
            chunk({}, "stop"),
        )
    )
    assert [(block.get("id"), block["said"]) for block in blocks] == [
        ("c1", '{"a":1}'),
        ("c2", '{"b":2}'),
        (None, "late"),
    ]


def test_stream_bears_odd_servers() -> None:
    """No index, no id, no finish reason, no usage, no choices: the message is whole all the same."""
    blocks, end = joined(
        streamed(
            chunk(None),
            chunk({"tool_calls": [call("f", '{"a":1}', None), call("g", None, None)]}),
            {"choices": [{"delta": None}]},
        )
    )
    assert [(block["id"], block["name"], block["said"]) for block in blocks] == [
        ("toolu_req_1_0", "f", '{"a":1}'),
        ("toolu_req_1_1", "g", ""),
    ]
    assert end["delta"]["stop_reason"] == "tool_use"
    assert end["usage"]["output_tokens"] == 2


PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]},
    {"type": "thinking", "thinking": "?", "closed": True},
    {"type": "text", "text": "Hel"},
    {"type": "text", "text": "lo"},
    {"type": "reference", "reference_ids": [1]},
]
"""What Mistral's models say when they think."""


@pytest.mark.parametrize("thinking", [True, False])
def test_content_that_comes_in_parts_is_told(thinking: bool) -> None:
    """Text and thinking are told from a list as well, whole and streamed, and arguments from an object."""
    fields: dict[str, Any] = {} if thinking else {"thinking": {"type": "adaptive", "display": "omitted"}}
    made = {"id": "c", "function": {"name": "f", "arguments": {"x": [1]}}}
    thought = [{"type": "thinking", "thinking": "hm?", "signature": ""}] if thinking else []
    called = {"type": "tool_use", "id": "c", "name": "f", "input": {"x": [1]}}
    answer = whole(with_message(content=PARTS, tool_calls=[made]), **fields)
    assert answer["content"] == [*thought, {"type": "text", "text": "Hello"}, called]
    pieces = [chunk({"index": 0, "content": [part]}) for part in PARTS]
    blocks, _ = joined(streamed(*pieces, chunk({"tool_calls": [{"index": 0, **made}]}), chunk({}, "stop"), **fields))
    assert [(block["type"], block["said"]) for block in blocks] == [
        *([("thinking", "hm?")] if thinking else []),
        ("text", "Hello"),
        ("tool_use", '{"x":[1]}'),
    ]


def test_stream_tells_which_stop_sequence_it_was() -> None:
    """Servers like vLLM say which; it is told where it is one of the client's."""
    last = chunk({}, "stop")
    last["choices"][0]["stop_reason"] = "END"
    _, end = joined(streamed(chunk({"content": "x"}), last, stop_sequences=["END"]))
    assert end["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


def test_feed_reads_events_of_any_line_end() -> None:
    """What a backend sent goes through as it came: CRLF, CR, comments."""
    bridge = MessagesBridge(asked(stream=True))
    data = json.dumps(chunk({"content": "x"})).encode()
    raw = b": ping\r\n\r\ndata: " + data + b"\r\n\r\ndata:" + data + b"\r\r"
    out = bridge.feed(Chunk(raw, output=True))
    assert out.output
    assert out.raw.count(b"text_delta") == 2


@given(st.lists(arguments, min_size=1, max_size=3), st.data())
def test_streamed_calls_equal_unstreamed_ones(values: list[dict[str, Any]], data: st.DataObject) -> None:
    """However the arguments are cut, the pieces join to what the whole answer says; ids and order too."""
    written = [json.dumps(value) for value in values]
    answer = with_message("tool_calls", tool_calls=[call(f"f{i}", w, id=f"c{i}") for i, w in enumerate(written)])
    expected = [(block["id"], block["name"], block["input"]) for block in whole(answer)["content"]]
    chunks = []
    for index, text_ in enumerate(written):
        cut = data.draw(st.integers(0, len(text_)))
        chunks += [
            chunk({"tool_calls": [call(f"f{index}", text_[:cut], index, f"c{index}")]}),
            chunk({"tool_calls": [call("", text_[cut:], index)]}),
        ]
    blocks, _ = joined(streamed(*chunks, chunk({}, "tool_calls")))
    assert [(block["id"], block["name"], json.loads(block["said"])) for block in blocks] == expected
