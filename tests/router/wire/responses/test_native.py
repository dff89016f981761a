"""Backends that speak the Responses API: their bytes, and what is read in passing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from router.types import Chunk, Usage
from router.wire.decoders import EventStream
from router.wire.responses.native import EXPANDED, NativeStream, native_parts, parse_native
from shared.errors import (
    ContextLengthExceeded,
    ServiceError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)
from shared.sse import SSEReader, encode_event
from tests.router.wire.responses.requests import responses_request

USAGE = {
    "input_tokens": 9,
    "output_tokens": 4,
    "input_tokens_details": {"cached_tokens": 2},
    "output_tokens_details": {"reasoning_tokens": 1},
}
WHOLE: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "completed", "model": "up", "output": []}
CANCELLED = json.dumps({**WHOLE, "status": "cancelled"}).encode()
"""What vLLM says of an answer that its shutdown cut short."""
ERRORS: list[tuple[Any, type[ServiceError]]] = [
    ({"code": "server_error", "message": "x"}, UpstreamUnavailable),
    ({"code": "rate_limit_exceeded", "message": "x"}, UpstreamRateLimited),
    ({"code": "invalid_prompt", "message": "x"}, UpstreamRejected),
    ({"code": "invalid_image_url", "message": "x"}, UpstreamRejected),
    ({"code": "image_too_large", "message": "x"}, UpstreamRejected),
    ({"code": "invalid_api_key", "message": "x"}, UpstreamUnauthorized),
    ({"code": "context_length_exceeded", "message": "x"}, ContextLengthExceeded),
    ("out of luck", UpstreamUnavailable),
    (None, UpstreamUnavailable),
    (3, UpstreamUnavailable),
]


def event(kind: str, **fields: Any) -> bytes:
    """One event as a backend writes it."""
    return encode_event(json.dumps({"type": kind, **fields}).encode(), kind)


def run(raw: bytes, reply_model: str | None = None) -> list[Chunk]:
    """The chunks for a stream that comes at once, without its framing's end."""
    decoder = EventStream(NativeStream(reply_model))
    chunks = [*decoder.feed(raw)]
    if decoder.failure is not None:
        raise decoder.failure
    return chunks if decoder.done else [*chunks, *decoder.end()]


def test_parts_change_only_the_model() -> None:
    """The client's bytes go up with the backend's name for the model, without what is the router's own."""
    request = responses_request(router={"fallback": True}, previous_response_id="resp_1", x=[1])
    sent = json.loads(b"".join(native_parts(request, "up")))
    assert sent == {"model": "up", "input": "Hi", "previous_response_id": "resp_1", "x": [1]}
    sent = json.loads(b"".join(native_parts(structs.replace(request, changes=(EXPANDED,)), "up")))
    assert sent == {"model": "up", "input": "Hi", "x": [1]}
    plain = responses_request()
    assert b"".join(native_parts(plain, "up")) == plain.body.replace(b'"m"', b'"up"')


def test_whole_answer_passes() -> None:
    """A response keeps its bytes; its usage is read, and its model renamed where that is wished for."""
    body = json.dumps({**WHOLE, "usage": USAGE}, indent=3).encode()
    answer = parse_native(body, None)
    assert (answer.body, answer.finish_reason) == (body, "stop")
    assert answer.usage == Usage(9, 4, cached_tokens=2, reasoning_tokens=1)
    assert parse_native(body, "m").body == body.replace(b'"up"', b'"m"')
    assert parse_native(json.dumps({**WHOLE, "usage": {"input_tokens": -1}}).encode(), None).usage is None
    incomplete = {**WHOLE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    assert parse_native(json.dumps(incomplete).encode(), None).finish_reason == "length"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"object": "response"}', b'{"choices": []}', b"\xff", CANCELLED]
)
def test_whole_answer_that_is_none(body: bytes) -> None:
    """What is no response is the backend's fault."""
    with pytest.raises(UpstreamUnavailable):
        parse_native(body, None)


@pytest.mark.parametrize(("error", "kind"), ERRORS)
def test_failures_mean_what_they_say(error: Any, kind: type[ServiceError]) -> None:
    """A failed response, whole or streamed, and an error event are the same error; whose fault it is decides."""
    failed = {**WHOLE, "status": "failed", "error": error}
    streams = [event("response.created", response=WHOLE) + event("response.failed", response=failed)]
    if error is not None:
        with pytest.raises(kind):
            parse_native(json.dumps(failed).encode(), None)
    if isinstance(error, dict):
        streams += [event("error", **error, param=None), event("error", error=error)]
    for raw in streams:
        with pytest.raises(kind):
            run(raw)


def test_stream_commits_at_its_first_output() -> None:
    """What a response begins with is no output; a piece of anything, or a finished item, is."""
    stream = EventStream(NativeStream(None))
    for quiet in ("response.created", "response.in_progress", "response.queued"):
        (chunk,) = stream.feed(event(quiet, response=WHOLE))
        assert not chunk.output
    (chunk,) = stream.feed(event("response.output_item.added", item={}))
    assert not chunk.output
    for loud in ("response.output_text.delta", "response.reasoning_summary_text.delta", "response.output_item.done"):
        (chunk,) = stream.feed(event(loud))
        assert (chunk.output, chunk.raw) == (True, event(loud))
    (chunk,) = stream.feed(event("response.completed", response={**WHOLE, "usage": USAGE}))
    read = Usage(9, 4, cached_tokens=2, reasoning_tokens=1)
    assert (chunk.done, chunk.finish_reason, chunk.usage) == (True, "stop", read)


def test_stream_that_fails_after_output_ends_as_the_backend_told_it() -> None:
    """Once something was said, the backend's own account of its failure is the stream's end."""
    failed = event("response.failed", response={**WHOLE, "status": "failed", "error": {"code": "server_error"}})
    raw = event("response.output_text.delta", delta="a") + failed
    (chunk,) = run(raw)
    assert (chunk.raw, chunk.done, chunk.finish_reason) == (raw, True, "error")
    (chunk,) = run(raw.replace(b"server_error", b"sk-proj-0123456789abcdef0123456789"))
    assert b"0123456789abcdef" not in chunk.raw


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        event("response.created", response=WHOLE),
        event("response.output_text.delta", delta="a"),
        event("response.output_text.delta", delta="a") + b"data: [DONE]\n\n",
        b"data: {not json\n\n",
        b"data: {}\n\n",
        b"data: []\n\n",
        event("response.completed", response="x"),
        event("response.output_text.delta", delta="a")
        + event("response.completed", response={**WHOLE, "status": "cancelled"}),
    ],
)
def test_stream_that_does_not_end_is_an_error(raw: bytes) -> None:
    """A stream without its terminal event, or with what is no event, never ends well."""
    with pytest.raises(UpstreamUnavailable):
        run(raw)


def test_stream_keeps_comments_and_unknown_events() -> None:
    """What the router does not understand passes as it came; `[DONE]` behind the end is left off."""
    raw = b": hello\n\n" + b'event: response.new\r\ndata: {"type": "response.new",\r\ndata: "a": 1}\r\n\r\n'
    raw += event("response.completed", response=WHOLE)
    assert b"".join(chunk.raw for chunk in run(raw + b"data: [DONE]\n\n")) == raw


def test_stream_renames_the_model_where_it_is_wished_for() -> None:
    """Every response that an event holds names the model that the client is to see."""
    raw = event("response.created", response=WHOLE) + event("response.completed", response=WHOLE)
    told = SSEReader().feed(b"".join(chunk.raw for chunk in run(raw, "m")))
    assert [json.loads(one.data or b"")["response"] for one in told] == [{**WHOLE, "model": "m"}] * 2
    assert [one.event for one in told] == ["response.created", "response.completed"]


@given(st.lists(st.integers(1, 300), max_size=8), st.sampled_from([None, "m"]))
def test_any_byte_split_gives_the_same_bytes(sizes: list[int], model: str | None) -> None:
    """However the network cuts a stream, the client gets the same bytes."""
    raw = event("response.created", response=WHOLE) + b": ping\n\n"
    raw += encode_event('{"type":"response.output_text.delta","delta":"é"}'.encode(), "response.output_text.delta")
    raw += event("response.completed", response={**WHOLE, "usage": USAGE})
    decoder, out, rest = EventStream(NativeStream(model)), b"", raw
    for size in [*sizes, len(raw)]:
        part, rest = rest[:size], rest[size:]
        out += b"".join(chunk.raw for chunk in decoder.feed(part)) if part else b""
    assert decoder.done
    assert out == b"".join(chunk.raw for chunk in run(raw, model))
