"""Chat requests: what is read, what is refused and how, what goes on to the backend."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import InferenceRequest
from router.wire.chat import forwarded_parts, parse_chat
from router.wire.fields import raw_fields
from shared.errors import InvalidRequest
from tests.support.nouns import CALLER, chat_request
from tests.support.properties import json_values, objects, text

HI = [{"role": "user", "content": "Hi"}]


def parse(body: bytes) -> InferenceRequest:
    """The request that bytes make."""
    return parse_chat(body, "req_1", CALLER, {})


def parts(*content: dict[str, Any]) -> list[dict[str, Any]]:
    """Messages of one user's content parts."""
    return [{"role": "user", "content": list(content)}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"model": ["m"]}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [*HI, {"content": "Hi"}]}, "messages[1].role"),
        ({"messages": [{"role": 1, "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [*HI, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": True}]}, "messages[0].content"),
        ({"messages": parts({"text": "no type"})}, "messages[0].content[0].type"),
        ({"messages": parts({"type": "text", "text": "x"}, {"type": 3})}, "messages[0].content[1].type"),
        ({"messages": [{"role": "user", "content": ["bare"]}]}, "messages[0].content[0]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "x"}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"n": 0}, "n"),
        ({"n": "2"}, "n"),
        ({"seed": 1.5}, "seed"),
        ({"stop": 3}, "stop"),
        ({"stop": ["a", 3]}, "stop[1]"),
        ({"logprobs": 5}, "logprobs"),
        ({"tools": {}}, "tools"),
        ({"response_format": "json"}, "response_format"),
        ({"router": "fast"}, "router"),
        ({"router": {"privacy": "secret"}}, "router.privacy"),
    ],
    ids=str,
)
def test_parse_chat_names_the_field_at_fault(fields: dict[str, Any], param: str) -> None:
    """A wrong type or value is a 400 whose `param` and message name the field."""
    with pytest.raises(InvalidRequest) as caught:
        chat_request(**fields)
    assert caught.value.status == 400
    assert caught.value.param == param
    assert f"'{param}'" in caught.value.message


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_parse_chat_names_a_missing_field(missing: str) -> None:
    """A required field that is absent is said to be missing."""
    body = {"model": "m", "messages": HI}
    del body[missing]
    with pytest.raises(InvalidRequest) as caught:
        parse(json.dumps(body).encode())
    assert caught.value.param == missing
    assert caught.value.message == f"Missing required parameter: '{missing}'."


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b'{"model":"m",',
        b"{'model':'m'}",
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}],}',
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}]} trailing',
        b'{"model":"m","messages":[{"role":"user","content":"\xff\xfe"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"x":"\xc3"}',
        b'{"model":"m","x":NaN}',
        b'\xef\xbb\xbf{"model":"m"}',
        b'{"model":"m","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"x":' + b'{"x":' * 200_000,
        b"[]",
        b'"model"',
        b"null",
    ],
    ids=lambda body: repr(body[:40]),
)
def test_parse_chat_refuses_what_is_no_json_object(body: bytes) -> None:
    """Broken JSON, broken UTF-8, endless nesting and other values are a 400 without a parameter."""
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert caught.value.status == 400
    assert caught.value.param is None
    assert "request body" in caught.value.message


@given(st.binary(max_size=60))
def test_parse_chat_raises_nothing_but_invalid_request(body: bytes) -> None:
    """No bytes make it fail in any other way."""
    with pytest.raises(InvalidRequest):
        parse(body)


def test_parse_chat_reads_what_routing_needs() -> None:
    """The fields of the request are those of the body."""
    request = chat_request(
        stream=True, stream_options={"include_usage": True}, temperature=0, max_tokens=7, max_completion_tokens=9, n=1
    )
    assert (request.id, request.caller, request.endpoint, request.model) == ("req_1", CALLER, "chat", "m")
    assert request.stream
    assert request.usage_asked
    assert request.deterministic
    assert request.max_tokens == 9
    assert request.choices == 1
    assert json.loads(request.body)["messages"] == HI


def test_parse_chat_takes_null_for_absent() -> None:
    """A field that is null is as one that is not there."""
    optional = ["stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "seed"]
    optional += ["stop", "logprobs", "tools", "functions", "response_format", "router"]
    request = chat_request(**dict.fromkeys(optional))
    assert not request.stream
    assert not request.usage_asked
    assert not request.deterministic
    assert request.max_tokens is None
    assert request.choices == 1
    assert request.needs == {"chat"}


def test_parse_chat_accepts_whatever_a_client_may_legally_send() -> None:
    """Every role, tool messages, null content, unknown fields and parts are no errors."""
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {}}]},
        {"role": "assistant", "tool_calls": []},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
        {"role": "function", "name": "f", "content": ""},
        {"role": "user", "content": [{"type": "holograph", "data": 1}, {"type": "text", "text": None}]},
    ]
    request = chat_request(messages=messages, temperature=2.5, reasoning={"effort": "high"}, seed=-(2**70), stop=[])
    assert request.needs == {"chat"}


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"tools": [{"type": "function"}]}, {"tools"}),
        ({"tools": []}, set()),
        ({"functions": [{"name": "f"}]}, {"tools"}),
        ({"response_format": {"type": "json_object"}}, {"json_schema"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"response_format": {"type": "text"}}, set()),
        ({"response_format": {}}, set()),
        ({"logprobs": True}, {"logprobs"}),
        ({"logprobs": False}, set()),
        ({"messages": parts({"type": "image_url", "image_url": {"url": "data:"}})}, {"vision"}),
        ({"messages": parts({"type": "input_audio", "input_audio": {}})}, {"audio"}),
        ({"messages": parts({"type": "file", "file": {}})}, {"files"}),
    ],
    ids=str,
)
def test_parse_chat_knows_what_a_request_needs(fields: dict[str, Any], needs: set[str]) -> None:
    """Tools, JSON, log probabilities and attachments each ask for a capability."""
    assert chat_request(**fields).needs == {"chat", *needs}


def test_parse_chat_measures_the_prompt() -> None:
    """Text is counted as written, attachments by number and not by size."""
    image = {"type": "image_url", "image_url": {"url": "data:" + "A" * 10_000}}
    request = chat_request(messages=[*HI, *parts({"type": "text", "text": "abcd"}, image, image), *HI])
    assert request.text_bytes == 8
    assert request.attachments == 2


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0, "n": 1}, True),
        ({"temperature": 0, "n": 2}, False),
        ({}, False),
    ],
)
def test_parse_chat_knows_which_requests_have_one_answer(fields: dict[str, Any], same: bool) -> None:
    """Temperature zero and one choice, nothing less."""
    assert chat_request(**fields).deterministic is same


# --- forwarded_parts --------------------------------------------------------------------------


def forwarded_body(request: InferenceRequest, upstream_model: str) -> bytes:
    """Return the parts as the backend gets them."""
    return b"".join(forwarded_parts(request, upstream_model))


_free = text.filter(lambda name: name not in {"model", "messages", "stream", "stream_options", "router"})
_typed = {"temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "seed", "stop", "logprobs", "tools"}
_typed |= {"functions", "response_format"}


@st.composite
def chat_bodies(draw: st.DrawFn) -> bytes:
    """Any spelling of a chat body with unknown fields, in any order, some of them twice."""
    members: list[tuple[str, Any]] = [("model", draw(text.filter(bool))), ("messages", HI)]
    members += draw(st.lists(st.tuples(_free.filter(lambda name: name not in _typed), json_values), max_size=4))
    if draw(st.booleans()):
        members.append(("router", {"session": "s"}))
    if draw(st.booleans()):
        members.append(("stream", draw(st.sampled_from([True, False, None]))))
    if draw(st.booleans()):
        options = draw(st.dictionaries(_free, json_values, max_size=2))
        usage = draw(st.sampled_from([{}, {"include_usage": True}, {"include_usage": False}, {"include_usage": None}]))
        members.append(("stream_options", draw(st.sampled_from([{**options, **usage}, None]))))
    return draw(objects(draw(st.permutations(members)))).encode()


@given(chat_bodies())
def test_forwarded_body_changes_only_what_it_must(body: bytes) -> None:
    """Model renamed, router object gone, usage asked of streams; every other value byte for byte as it was."""
    request = parse(body)
    sent = forwarded_body(request, 'up/"stream" ✓')
    expected = json.loads(body)
    expected["model"] = 'up/"stream" ✓'
    expected.pop("router", None)
    if request.stream:
        expected["stream_options"] = {**(expected.get("stream_options") or {}), "include_usage": True}
    assert json.loads(sent) == expected
    before, after = raw_fields(request.body), raw_fields(sent)
    for name in after:
        if name not in ("model", "stream_options"):
            assert bytes(after[name]) == bytes(before[name])


def test_forwarded_body_keeps_unknown_fields_byte_for_byte() -> None:
    """Spacing, number formats, escapes, even numbers no parser holds, stay as the client wrote them."""
    body = (
        b'{ "x" : 1.50e+3,"model":"m" , "y":{"model":"m", "n": 1e999,"s":"\\u00e9\\/"},\n'
        b'"messages":[ {"role":"user","content":"Hi"} ],"big":123456789012345678901234567890 }'
    )
    assert forwarded_body(parse(body), "up") == body.replace(b'"model":"m" ', b'"model":"up" ')


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (b"{}", b'{"include_usage":true}'),
        (b"null", b'{"include_usage":true}'),
        (b'{ "include_usage" : false }', b'{ "include_usage" : true }'),
        (b'{"x":1e999, "y": 1.0 }', b'{"x":1e999, "y": 1.0,"include_usage":true }'),
    ],
)
def test_forwarded_body_merges_stream_options(options: bytes, sent: bytes) -> None:
    """The client's own options stay as written beside the one that accounting needs."""
    body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true,"stream_options":' + options + b"}"
    assert forwarded_body(parse(body), "m") == body.replace(options + b"}", sent + b"}")


def test_forwarded_body_leaves_other_requests_without_stream_options() -> None:
    """Only streams are asked for usage, and only those that did not ask."""
    for fields in ({}, {"stream": False}, {"stream": True, "stream_options": {"include_usage": True}}):
        request = chat_request(**fields)  # type: ignore[arg-type]
        assert forwarded_body(request, "m") == request.body


@pytest.mark.parametrize("place", [0, 1, 2])
def test_forwarded_body_strips_the_router_object_anywhere(place: int) -> None:
    """First, in the middle or last, nothing of it goes on."""
    members = ['"model":"m"', f'"messages":{json.dumps(HI)}']
    members.insert(place, '"router" : {"privacy":"local","x-router-session":"s"}')
    request = parse(("{" + ",".join(members) + "}").encode())
    assert (request.wishes.privacy, request.wishes.session) == ("local", "s")
    assert json.loads(forwarded_body(request, "up")) == {"model": "up", "messages": HI}
