"""Chunks joined into a completion and cut again: nothing is lost, or nothing is kept."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import Usage
from router.wire.transcript import chunks_of, join_chunks
from shared.sse import SSEReader
from tests.support.properties import json_values, text
from tests.support.upstream import chunk, completion

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def join(*chunks: dict[str, Any], usage: Usage | None = None) -> Any:
    """The completion of chunks, as JSON, or None."""
    whole = join_chunks([json.dumps(one).encode() for one in chunks], usage)
    return None if whole is None else json.loads(whole)


def cut(whole: dict[str, Any], *, usage_asked: bool = False) -> list[dict[str, Any]]:
    """The chunks of a completion; its end is checked on the way."""
    events = SSEReader().feed(b"".join(chunks_of(json.dumps(whole).encode(), usage_asked)))
    assert events[-1].data == b"[DONE]"
    return [json.loads(event.data or b"") for event in events[:-1]]


def call(index: int | None, **part: Any) -> dict[str, Any]:
    """A chunk with a piece of a tool call."""
    return chunk({"tool_calls": [{**({} if index is None else {"index": index}), **part}]})


_calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": text.filter(bool),
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": text.filter(bool), "arguments": text}),
        }
    ),
    max_size=3,
)
_messages = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": text.filter(bool) | st.none(), "refusal": text.filter(bool) | st.none()},
    optional={"reasoning_content": text.filter(bool), "tool_calls": _calls.filter(bool)},
)


@st.composite
def completions(draw: st.DrawFn) -> dict[str, Any]:
    """Any completion that a stream can tell."""
    choices = [
        {"index": index, "message": draw(_messages), "logprobs": None, "finish_reason": draw(text.filter(bool))}
        for index in range(draw(st.integers(1, 3)))
    ]
    extra = draw(st.dictionaries(st.sampled_from(["system_fingerprint", "citations", "x"]), json_values.filter(bool)))
    return {**completion("x"), **extra, "choices": choices, "usage": draw(st.sampled_from([USAGE, None]))}


@st.composite
def streamed(draw: st.DrawFn, whole: dict[str, Any]) -> list[dict[str, Any]]:
    """One of the ways in which a server streams a completion: text and arguments in pieces, choices mixed."""
    head = {key: value for key, value in whole.items() if key not in ("choices", "usage", "object")}
    queues: list[list[dict[str, Any]]] = []
    for choice in whole["choices"]:
        message = dict(choice["message"])
        deltas: list[dict[str, Any]] = [{"role": message.pop("role")}]
        for number, one in enumerate(message.pop("tool_calls", [])):
            deltas.append({"tool_calls": [{**one, "index": number, "function": {"name": one["function"]["name"]}}]})
            arguments = pieces(draw, one["function"]["arguments"])
            deltas += [{"tool_calls": [{"index": number, "function": {"arguments": piece}}]} for piece in arguments]
        for name, value in message.items():
            deltas += [{name: piece} for piece in pieces(draw, value or "")]
        parts = [{"index": choice["index"], "delta": delta, "finish_reason": None} for delta in deltas]
        queues.append([*parts, {"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]}])
    events = []
    while queues:
        queue = draw(st.sampled_from(queues))
        events.append({**head, "object": "chat.completion.chunk", "choices": [queue.pop(0)]})
        queues = [left for left in queues if left]
    return [*events, {**head, "object": "chat.completion.chunk", "choices": [], "usage": whole["usage"]}]


def pieces(draw: st.DrawFn, value: str) -> list[str]:
    """A text in pieces."""
    if not value:
        return []
    middle = draw(st.integers(0, len(value)))
    return [value[:middle], value[middle:]]


@given(st.data(), completions())
def test_join_chunks_restores_what_was_streamed(data: st.DataObject, whole: dict[str, Any]) -> None:
    """However a server cuts its answer, the pieces add up to it: text, calls, arguments, all choices, usage."""
    assert join(*data.draw(streamed(whole))) == whole


@given(completions(), st.booleans())
def test_chunks_of_are_joined_to_the_same_completion(whole: dict[str, Any], usage_asked: bool) -> None:
    """Cutting and joining is the identity, but for the usage that a client did not ask for."""
    expected = whole if usage_asked else {**whole, "usage": None}
    assert join(*cut(whole, usage_asked=usage_asked)) == expected


@given(completions())
def test_chunks_of_make_a_stream_for_the_strictest_reader(whole: dict[str, Any]) -> None:
    """Role first, each finish once, one head, indexed calls, usage last with `choices: []`, one line an event."""
    raw = chunks_of(json.dumps(whole, indent=2).encode(), usage_asked=True)
    assert all(event.count(b"\n") == 2 for event in raw)
    chunks = cut(whole, usage_asked=True)
    if whole["usage"] is not None:
        last = chunks.pop()
        assert (last["choices"], last["usage"]) == ([], USAGE)
        assert all(one["usage"] is None for one in chunks)
    for choice in whole["choices"]:
        parts = [one["choices"][0] for one in chunks if one["choices"][0]["index"] == choice["index"]]
        assert parts[0]["delta"] == {"role": "assistant"}
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [choice["finish_reason"]]
        indexes = [one["index"] for part in parts for one in part["delta"].get("tool_calls", [])]
        assert indexes == list(range(len(choice["message"].get("tool_calls", []))))
    assert {(one["id"], one["model"], one["object"]) for one in chunks} == {
        (whole["id"], whole["model"], "chat.completion.chunk")
    }


def test_chunks_of_keep_what_has_no_place_in_a_stream() -> None:
    """Log probabilities and foreign fields of the answer, the choice and the message survive."""
    whole = completion("x", citations=["u"])
    whole["choices"][0] |= {"logprobs": {"content": []}, "content_filter_results": {"hate": 1}}
    whole["choices"][0]["message"]["annotations"] = [1]
    said, end = cut(whole)[1:]
    assert said["citations"] == ["u"]
    assert said["choices"][0]["logprobs"] == {"content": []}
    assert said["choices"][0]["delta"] == {"content": "x", "annotations": [1]}
    assert end["choices"][0]["content_filter_results"] == {"hate": 1}


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"choices":[{"finish_reason":"stop"}]}', b'{"choices":[{"message":5}]}']
)
def test_chunks_of_refuse_what_is_no_completion(body: bytes) -> None:
    """An answer without messages has no form as a stream."""
    with pytest.raises(msgspec.ValidationError):
        chunks_of(body, usage_asked=False)


# --- what is joined, what is not --------------------------------------------------------------


END = chunk({}, "stop")


def test_join_chunks_takes_the_usage_from_elsewhere() -> None:
    """Usage that was hidden from the stream, or estimated, joins the whole; the stream's own counts first."""
    assert join(chunk({"content": "x"}), END, usage=Usage(1, 2))["usage"] == Usage(1, 2).openai()
    assert join(chunk({"content": "x"}), END, chunk(None, usage=USAGE), usage=Usage(1, 2))["usage"] == USAGE
    assert join(chunk({"content": "x"}), END)["usage"] is None


def test_join_chunks_fills_the_head_from_whoever_knows() -> None:
    """A first chunk with an empty id and model does not spoil the answer; padding is dropped."""
    empty = {**chunk({"role": "assistant"}), "id": "", "model": "", "created": 0}
    whole = join(empty, {**chunk({"content": "x"}), "obfuscation": "aaa"}, {**END, "obfuscation": "b"})
    assert (whole["id"], whole["model"], whole["created"]) == ("chatcmpl-script", "upstream-model", 1_700_000_000)
    assert "obfuscation" not in whole


def test_join_chunks_keeps_fields_that_do_not_change() -> None:
    """A foreign field that says the same throughout belongs to the answer; one that changes has no rule."""
    said = chunk({"content": "x"}, provider="p")
    assert join(said, {**END, "provider": "p"})["provider"] == "p"
    assert join(said, {**END, "provider": "q"}) is None


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [chunk({"content": "x"})],
        [chunk(None, usage=USAGE)],
        [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}, {"index": 1, "delta": {}}]}],
        [{**END, "choices": [{**END["choices"][0], "logprobs": {"content": []}}]}],
        [{**END, "choices": [{**END["choices"][0], "content_filter_results": {}}]}],
        [{**END, "choices": [{**END["choices"][0], "index": None}]}],
        [{**END, "choices": [{**END["choices"][0], "index": "0"}]}],
        [chunk({"audio": {"data": "AA"}}), END],
        [chunk({"function_call": {"name": "f"}}), END],
        [chunk({"content": [{"type": "text", "text": "x"}]}), END],
        [chunk({"content": 5}), chunk({"content": "x"}), END],
        [call(None, id="a", function={"name": "f"}), END],
        [call(1, id="a", function={"name": "f"}), END],
        [call(10**9, id="a", function={"name": "f"}), END],
        [call(-1, id="a"), call(0, id="a"), END],
        [call(0, id="a", type="custom", custom={"name": "f"}), END],
        [call(0, id="a", function={"name": "f"}, extra_content={"google": {}}), END],
        [call(0, id="a", function={"name": "f", "strict": True}), END],
        [call(0, id="a", function={"name": "f"}), call(0, id="b", function={"name": "g"}), END],
        [call(0, id="a", function={"name": "f"}), call(0, function={"name": "f", "arguments": "{}"}), END],
        [call(0, id="a", function={"name": "f", "arguments": {"a": 1}}), END],
        [chunk({"tool_calls": 5}), END],
        [{"choices": 5}],
        [{"choices": [5]}],
        [{"choices": [{"index": 0, "delta": "x", "finish_reason": "stop"}]}],
    ],
    ids=str,
)
def test_join_chunks_gives_up_on_what_has_no_rule(chunks: list[dict[str, Any]]) -> None:
    """An unfinished answer, foreign fields, and calls that nobody can tell apart are not joined."""
    assert join(*chunks) is None


@pytest.mark.parametrize("data", [b"[]", b"5", b"{broken", b'{"x":1e999,"choices":[]}', b"[" * 99999])
def test_join_chunks_survives_what_is_no_chunk(data: bytes) -> None:
    """Whatever the bytes, the result is None and no error."""
    assert join_chunks([json.dumps(END).encode(), data]) is None


def test_join_chunks_keeps_several_calls_apart() -> None:
    """Arguments in pieces find their calls by index, in any order after their beginning."""
    whole = join(
        call(0, id="a", type="function", function={"name": "f", "arguments": ""}),
        call(1, id="b", type="function", function={"name": "g", "arguments": ""}),
        call(0, function={"arguments": '{"x":'}),
        call(1, id="b", function={"arguments": "[]"}),
        call(0, function={"arguments": "1}"}),
        chunk({}, "tool_calls"),
    )
    message = whole["choices"][0]["message"]
    assert [(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in message["tool_calls"]] == [
        ("a", "f", '{"x":1}'),
        ("b", "g", "[]"),
    ]
    assert message["content"] is None
