"""OpenAI replies: every odd shape of a stream is read, and bytes pass through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import Chunk, Usage
from router.wire.fields import with_model
from router.wire.openai import completion_event, parse_completion
from shared.errors import (
    ContextLengthExceeded,
    ServiceError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)
from shared.sse import DONE, SSEEvent, SSEReader
from tests.support.properties import json_values, objects, text
from tests.support.upstream import chunk, completion

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def event(data: Any, end: bytes = b"\n\n", lead: bytes = b"data: ") -> SSEEvent:
    """One event as a server would write it."""
    written = data if isinstance(data, bytes) else json.dumps(data).encode()
    (read,) = SSEReader().feed(lead + written + end + b": " if end.endswith(b"\r") else lead + written + end)
    return read


def read(data: Any, *, reply_model: str | None = None, usage_asked: bool = False) -> Chunk:
    """The chunk for one event."""
    return completion_event(event(data), reply_model, usage_asked)


def data_of(raw: bytes) -> Any:
    """The JSON of the one event in `raw`."""
    (one,) = SSEReader().feed(raw)
    return json.loads(one.data or b"")


# --- streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("lead", [b"data: ", b"data:", b": note\ndata: ", b"event: message\nid: 1\ndata: "])
def test_completion_event_passes_the_json_through_and_frames_it_strictly(end: bytes, lead: bytes) -> None:
    """The JSON goes on as it came; line ends, comments and other fields become what every reader knows."""
    whole = {"unknown": 1.50, **chunk({"content": "é"}), "x": {"model": "m"}}
    passed = completion_event(event(whole, end, lead), None, usage_asked=False)
    assert passed == Chunk(event(whole).raw, output=True)


def test_completion_event_writes_json_of_several_lines_in_one() -> None:
    """A reader that takes each `data:` line for a whole event gets one."""
    text = json.dumps(chunk({"content": "a\nb"}), indent=1).encode()
    (came,) = SSEReader().feed(b"data: " + text.replace(b"\n", b"\ndata: ") + b"\n\n")
    raw = completion_event(came, None, usage_asked=False).raw
    assert raw.count(b"\n") == 2
    assert json.loads(raw[6:]) == chunk({"content": "a\nb"})


@pytest.mark.parametrize("data", ['{"message": "engine died"}', '{"error": {"message": "engine died"}}', "engine died"])
def test_completion_event_takes_an_event_named_error_for_one(data: str) -> None:
    """Whatever its data looks like."""
    (came,) = SSEReader().feed(f"event: error\ndata: {data}\n\n".encode())
    with pytest.raises(UpstreamUnavailable, match="engine died"):
        completion_event(came, None, usage_asked=False)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"content": " "},
        {"content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": "x"},
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]},
        {"function_call": {"name": "f"}},
        {"refusal": "no"},
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"audio": {"data": "AA"}},
        {"content": "x", "unknown": {"deep": []}},
    ],
)
def test_completion_event_knows_output(delta: dict[str, Any]) -> None:
    """Text, calls, refusals, reasoning and audio are output, with a role or without."""
    assert read(chunk(delta)).output


@pytest.mark.parametrize(
    "data",
    [
        chunk({"role": "assistant"}),
        chunk({"role": "assistant", "content": ""}),
        chunk({"role": "assistant", "content": None, "tool_calls": []}),
        chunk({"content": "", "refusal": None, "function_call": {}}),
        chunk({}),
        {**chunk({}), "choices": [{"index": 0, "finish_reason": None}]},
        {**chunk({}), "choices": [{"index": 0, "delta": None}]},
        chunk(None),
        {
            "choices": [],
            "created": 0,
            "id": "",
            "model": "",
            "object": "",
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
        },
    ],
    ids=str,
)
def test_completion_event_knows_what_is_no_output(data: dict[str, Any]) -> None:
    """A role, empty deltas and Azure's first chunk are not output; they pass through all the same."""
    passed = read(data)
    assert not passed.output
    assert passed.finish_reason is None
    assert passed.raw == event(data).raw


def test_completion_event_reads_the_finish_reason() -> None:
    """The reason that is given counts, not one that is null or empty."""
    assert read(chunk({}, "length")).finish_reason == "length"
    assert read(chunk({"content": "x"}, "")).finish_reason is None
    two = chunk({}, None)
    two["choices"].append({"index": 1, "delta": {}, "finish_reason": "stop"})
    assert read(two).finish_reason == "stop"


@pytest.mark.parametrize("choices", [{"choices": []}, {"choices": None}, {}], ids=str)
def test_completion_event_shows_the_usage_chunk_only_to_those_who_asked(choices: dict[str, Any]) -> None:
    """Accounting sees the usage either way; a client that asked gets it with `choices: []`, whatever came."""
    data = {"id": "c", "object": "chat.completion.chunk", **choices, "usage": USAGE}
    hidden = read(data)
    assert hidden == Chunk(b"", usage=Usage(7, 5))
    shown = read(data, usage_asked=True)
    assert shown.usage == Usage(7, 5)
    assert data_of(shown.raw) == {**data, "choices": []}
    assert read(data, usage_asked=True, reply_model="alias").usage == Usage(7, 5)


def test_completion_event_hides_usage_beside_a_choice() -> None:
    """It is counted; clients look for it in an event of its own, and some would add it up."""
    data = chunk({"content": "x"}, usage=USAGE)
    told = read(data)
    assert (told.usage, told.output) == (Usage(7, 5), True)
    assert data_of(told.raw) == {**data, "usage": None}
    assert completion_event(event(data), None, usage_asked=True, running=True).raw == event(data).raw


def test_completion_event_takes_null_usage_for_none() -> None:
    """`usage: null` says nothing."""
    assert read(chunk({"content": "x"}, usage=None)).usage is None


def test_completion_event_reads_the_details_of_usage() -> None:
    """Cached and reasoning tokens are read, and never exceed their parents."""
    details = {"prompt_tokens_details": {"cached_tokens": 6}, "completion_tokens_details": {"reasoning_tokens": 3}}
    assert read(chunk(None, usage={**USAGE, **details})).usage == Usage(7, 5, 6, 3)
    details["prompt_tokens_details"]["cached_tokens"] = 99
    assert read(chunk(None, usage={**USAGE, **details})).usage == Usage(7, 5, 7, 3)
    nulls = {"prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": None}}
    assert read(chunk(None, usage={"prompt_tokens": 7, "completion_tokens": None, **nulls})).usage == Usage(7, 0)


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": -1}, {"prompt_tokens": "7"}, [], "none", 7, {"prompt_tokens": 1.5}]
)
def test_replies_are_not_lost_to_a_count_that_cannot_be_read(usage: Any) -> None:
    """An odd usage is as none; the answer goes on."""
    assert read(chunk({"content": "x"}, usage=usage)).output
    whole = parse_completion(json.dumps(completion("x", usage=usage)).encode(), None)
    assert (whole.usage, whole.finish_reason) == (None, "stop")


@pytest.mark.parametrize("spelling", [b"[DONE]", b" [DONE] ", b"[DONE]\t"])
def test_completion_event_knows_the_end(spelling: bytes) -> None:
    """The end is `[DONE]`, always in the same bytes."""
    assert read(spelling) == Chunk(DONE, done=True)


def test_completion_event_passes_comments_and_swallows_empty_data() -> None:
    """A comment keeps the connection alive; an empty `data:` would break strict clients."""
    assert completion_event(SSEEvent(b": ping\n\n", None), "alias", usage_asked=False) == Chunk(b": ping\n\n")
    assert completion_event(SSEEvent(b"data:\n\n", b""), "alias", usage_asked=False) == Chunk(b"")


def test_completion_event_gives_every_chunk_its_choices() -> None:
    """Strict clients need the array; an object that is empty is nothing to pass on."""
    assert data_of(read({"id": "c", "x": 1}).raw) == {"id": "c", "x": 1, "choices": []}
    assert read({}).raw == b""


def test_completion_event_replaces_the_model_and_nothing_else() -> None:
    """Only the value of `model` differs, in the top level alone, whatever the layout."""
    data = b'{ "id":"c" ,"model" : "upstream", "n":1.50,"choices":[{"delta":{"content":"\\u00e9","model":"m"}}]}'
    raw = completion_event(event(data, lead=b"event: x\ndata:"), 'a"lias', usage_asked=False).raw
    assert raw == b"data: " + data.replace(b'"upstream"', b'"a\\"lias"') + b"\n\n"
    lines = b'{"model":\ndata: "upstream",\ndata: "choices":[]}'
    assert data_of(read(lines, reply_model="alias").raw) == {"model": "alias", "choices": []}
    assert data_of(read({"choices": []}, reply_model="alias").raw) == {"choices": []}


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"error": {"message": "engine died", "type": "server_error", "code": None}}, UpstreamUnavailable),
        ({"error": "engine died"}, UpstreamUnavailable),
        ({"error": ["engine died"]}, UpstreamUnavailable),
        ({"error": {"message": "bad field", "code": 400}}, UpstreamRejected),
        ({"error": {"message": "slow down", "code": 429}}, UpstreamRateLimited),
        ({"error": {"message": "no", "code": "rate_limit_exceeded"}}, UpstreamRateLimited),
        ({"error": {"message": "bad key sk-secret", "code": "invalid_api_key"}}, UpstreamUnauthorized),
        ({"error": {"message": "maximum context length is 8", "code": 400}}, ContextLengthExceeded),
        ({"error": {"message": "x", "code": "context_length_exceeded"}}, ContextLengthExceeded),
        ({"object": "error", "message": "bad field", "code": 400}, UpstreamRejected),
        ({"error": {"message": "x"}, "choices": []}, UpstreamUnavailable),
    ],
    ids=str,
)
def test_completion_event_raises_errors_in_band(data: dict[str, Any], kind: type[ServiceError]) -> None:
    """An error that comes with status 200 is the error it would be with its own status."""
    with pytest.raises(ServiceError) as caught:
        read(data)
    assert type(caught.value) is kind
    assert "sk-secret" not in caught.value.message


@pytest.mark.parametrize("empty", [None, "", {}, []])
def test_completion_event_takes_an_empty_error_for_none(empty: Any) -> None:
    """Some servers send `error: null` in every chunk."""
    assert read(chunk({"content": "x"}, error=empty)).output


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        b'{"choices":[{"delta":{"content":"x"',
        b"[1]",
        b'"x"',
        b'{"choices":5}',
        b'{"x":"\xff"}',
        b"[" * 99999,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_completion_event_refuses_garbage(data: bytes) -> None:
    """What is no chunk is the backend's failure, not the client's problem."""
    with pytest.raises(UpstreamUnavailable):
        read(data)


@given(st.binary(max_size=40).filter(lambda data: b"\n" not in data and b"\r" not in data), st.none() | text)
def test_completion_event_raises_only_service_errors(data: bytes, reply_model: str | None) -> None:
    """No bytes make it fail in any other way."""
    try:
        passed = completion_event(SSEEvent(b"data: " + data + b"\n\n", data), reply_model, usage_asked=True)
    except ServiceError:
        return
    assert passed.raw in (DONE, b"") or data_of(passed.raw)["choices"] is not None


# --- whole answers ----------------------------------------------------------------------------


def test_parse_completion_passes_the_bytes_through() -> None:
    """Layout, unknown fields and number formats stay."""
    body = json.dumps(completion("é✓", x={"y": 1e999}), indent=2, ensure_ascii=False).encode()
    body = body.replace(b"Infinity", b"1e999")
    whole = parse_completion(body, None)
    assert whole.body is body
    assert (whole.usage, whole.finish_reason) == (Usage(7, 5), "stop")
    renamed = parse_completion(body, "alias").body
    assert renamed == body.replace(b'"upstream-model"', b'"alias"')


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", UpstreamUnavailable),
        (b"<html>Bad gateway</html>", UpstreamUnavailable),
        (b"[]", UpstreamUnavailable),
        (b"{}", UpstreamUnavailable),
        (b'{"choices":[]}', UpstreamUnavailable),
        (b'{"choices":null,"error":null}', UpstreamUnavailable),
        (b'{"detail":"Not found"}', UpstreamUnavailable),
        (b'{"choices":[{"message":{"content":"\xff"}}]}', UpstreamUnavailable),
        (b'{"error":"boom"}', UpstreamUnavailable),
        (b'{"error":{"message":"bad field","code":422,"param":"x"}}', UpstreamRejected),
        (b'{"object":"error","message":"bad field","type":"BadRequestError","code":400}', UpstreamRejected),
    ],
)
def test_parse_completion_raises_what_is_no_answer(body: bytes, kind: type[ServiceError]) -> None:
    """HTML, other JSON and errors with status 200 are errors, and no markup reaches the caller."""
    with pytest.raises(ServiceError) as caught:
        parse_completion(body, "alias")
    assert type(caught.value) is kind
    assert "<" not in caught.value.message


@given(st.data(), st.lists(st.tuples(text, json_values), max_size=4, unique_by=lambda member: member[0]), text)
def test_with_model_replaces_the_value_alone(data: st.DataObject, members: list[tuple[str, Any]], model: str) -> None:
    """In any spelling of any object the other bytes stay, and an object without a model gets none."""
    members = [(name, value) for name, value in members if name != "model"]
    body = data.draw(objects(members)).encode()
    assert with_model(body, model) == body
    members.insert(len(members) // 2, ("model", "m"))
    body = data.draw(objects(members)).encode()
    assert json.loads(with_model(body, model)) == {**json.loads(body), "model": model}
