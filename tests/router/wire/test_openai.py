"""OpenAI replies: every odd shape of a stream is read, and bytes pass through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import Chunk, Usage
from router.wire.decoders import EventStream
from router.wire.fields import with_model
from router.wire.openai import ChatStream, completion_event, parse_completion
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


@pytest.mark.parametrize("asked", [True, False])
def test_stream_tells_usage_beside_a_choice_in_an_event_of_its_own(asked: bool) -> None:
    """Once, behind the last choice, without choices, and only where it was asked for."""
    stream = ChatStream(None, usage_asked=asked)
    raws = [
        raw.raw
        for data in (chunk({"content": "x"}), chunk({}, "stop", usage=USAGE))
        for raw in stream.feed(event(data))
    ]
    raws += [raw.raw for raw in stream.feed(SSEEvent(DONE, b"[DONE]"))]
    told = [json.loads(raw[6:]) for raw in raws if raw and raw != DONE]
    assert [data for data in told if data.get("usage")] == ([{**chunk(None), "usage": USAGE}] if asked else [])
    assert raws[-1] == DONE


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


def test_chat_stream_that_is_nothing_but_its_end_is_no_answer() -> None:
    """`[DONE]` without a word or a finish reason is a backend that failed and says otherwise."""
    done = SSEEvent(DONE, b"[DONE]")
    with pytest.raises(UpstreamUnavailable, match="without an answer"):
        ChatStream(None, usage_asked=False).feed(done)
    for data in (chunk({}, "stop"), chunk({"content": "x"})):
        stream = ChatStream(None, usage_asked=False)
        stream.feed(event(data))
        assert stream.feed(done)[0].done


def test_chat_stream_whose_connection_breaks_behind_its_finish_is_whole() -> None:
    """All that is missing then is the end, which can be told; where more is missing nothing is."""
    broken, whole = EventStream(ChatStream(None, usage_asked=False)), EventStream(ChatStream(None, usage_asked=False))
    broken.feed(event(chunk({"content": "x"})).raw)
    with pytest.raises(UpstreamUnavailable):
        broken.lost()
    whole.feed(event(chunk({"content": "x"})).raw + event(chunk({}, "stop")).raw)
    assert [told.raw for told in whole.lost()] == [DONE]
    assert whole.done


# --- pieces of calls --------------------------------------------------------------------------


def calls_of(*pieces: dict[str, Any]) -> list[bytes]:
    """The events for pieces of calls, each of one chunk."""
    stream = ChatStream(None, usage_asked=False)
    return [told.raw for piece in pieces for told in stream.feed(event(chunk({"tool_calls": [piece]})))]


def piece_of(arguments: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    """A piece of a call."""
    return {**more, "function": {"arguments": arguments, **({} if name is None else {"name": name})}}


A, B = '{"x": 1}', '{"y": [2]}'
ODD_CALLS = {
    "no index": [
        piece_of("", "f", id="a"),
        piece_of(A),
        piece_of("", "g", id="b"),
        piece_of(B),
    ],
    "no index, ids repeated": [
        piece_of(A[:3], "f", id="a"),
        piece_of(A[3:], "f", id="a"),
        piece_of(B[:3], "g", id="b"),
        piece_of(B[3:], "g", id="b"),
    ],
    "no index, interleaved": [
        piece_of(A[:3], "f", id="a"),
        piece_of(B[:3], "g", id="b"),
        piece_of(A[3:], id="a"),
        piece_of(B[3:], id="b"),
    ],
    "one index for all": [
        piece_of(A[:3], "f", id="a", index=0),
        piece_of(A[3:], index=0),
        piece_of(B[:3], "g", id="b", index=0),
        piece_of(B[3:], index=0),
    ],
    "counted from one": [
        piece_of(A[:3], "f", id="a", index=1),
        piece_of(B[:3], "g", id="b", index=2),
        piece_of(A[3:], index=1),
        piece_of(B[3:], index=2),
    ],
    "another id in each piece": [
        piece_of(A[:3], "f", id="a", index=0),
        piece_of(A[3:], id="c", index=0),
        piece_of(B[:3], "g", id="b", index=1),
        piece_of(B[3:], id="d", index=1),
    ],
    "name repeated": [
        piece_of(A[:3], "f", id="a", index=0),
        piece_of(A[3:], "f", id="a", index=0),
        piece_of(B, "g", id="b", index=1),
    ],
}


@pytest.mark.parametrize("name", ODD_CALLS)
def test_chat_stream_tells_calls_apart_for_clients_that_go_by_the_index(name: str) -> None:
    """However a server marks the pieces of its calls, they have the right index, and their id once."""
    joined: dict[int, dict[str, str]] = {}
    for raw in calls_of(*ODD_CALLS[name]):
        (piece,) = data_of(raw)["choices"][0]["delta"]["tool_calls"]
        call = joined.setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
        call["id"] += piece.get("id") or ""
        for key, value in piece["function"].items():
            call[key] += value
    assert joined == {0: {"id": "a", "name": "f", "arguments": A}, 1: {"id": "b", "name": "g", "arguments": B}}


def test_chat_stream_gives_a_call_without_an_id_one() -> None:
    """Clients cannot answer a call that has none; two calls get two, and every replay the same."""
    pieces = [piece_of(A, "f", index=0), piece_of(B, "g", index=1, id="")]
    given_ids = [data_of(raw)["choices"][0]["delta"]["tool_calls"][0]["id"] for raw in calls_of(*pieces)]
    assert len({*given_ids}) == 2
    assert all(one.startswith("call_") for one in given_ids)
    assert given_ids == [data_of(raw)["choices"][0]["delta"]["tool_calls"][0]["id"] for raw in calls_of(*pieces)]


def test_chat_stream_leaves_proper_calls_as_they_are() -> None:
    """Calls that are told as the protocol has it, interleaved or not, pass byte for byte; so does what is none."""
    pieces = [
        piece_of("", "f", index=0, id="a", type="function"),
        piece_of(A[:3], index=0),
        piece_of(B[:3], "g", index=1, id="b", type="function", extra=1.50),
        piece_of(A[3:], index=0, id=None),
        piece_of(B[3:], index=1),
    ]
    written = [event(chunk({"tool_calls": [piece]})).raw for piece in pieces]
    assert calls_of(*pieces) == written
    stream = ChatStream(None, usage_asked=False)
    for odd in ("x", ["x"], [{"function": 1}], {"a": 1}, [{"index": [], "id": 5}]):
        raw = event(chunk({"tool_calls": odd})).raw
        assert [told.raw for told in stream.feed(event(chunk({"tool_calls": odd})))] == [raw]
