"""Messages requests: what routing gets to know, and what is refused with the field named."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import InferenceRequest
from router.wire.anthropic.counting import estimated_count, estimated_tokens
from router.wire.anthropic.parse import parse_count_tokens, parse_messages
from shared.errors import InvalidRequest
from tests.support.nouns import CALLER
from tests.support.properties import json_values

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}}


def parsed(**fields: Any) -> InferenceRequest:
    """Return the request that a body with these fields makes."""
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return parse_messages(json.dumps(body).encode(), "req_1", CALLER, {})


def said(*blocks: Any) -> list[Any]:
    """Return a user's turn of these blocks."""
    return [{"role": "user", "content": list(blocks)}]


def test_parse_messages_keeps_the_body_and_tells_what_routing_needs() -> None:
    """The bytes stay; model, limit, stream and size are read, and the wishes of the `router` object."""
    body = b'{ "model":"m", "max_tokens": 32000, "stream": true, "router": {"policy": "p"}, "messages":[{"role":"user"'
    body += b',"content":[{"type":"text","text":"four"}]}], "system": "six__6", "context_management": {"x": 1.50}}'
    request = parse_messages(body, "req_1", CALLER, {"a": "b"})
    assert request.body == body
    assert (request.endpoint, request.model, request.stream, request.max_tokens) == ("messages", "m", True, 32000)
    assert (request.text_bytes, request.wishes.policy, request.usage_asked) == (10, "p", True)
    assert request.needs == {"messages"}


@pytest.mark.parametrize(
    ("fields", "needs", "attachments"),
    [
        ({"messages": said(IMAGE)}, {"vision"}, 1),
        ({"messages": said(PDF)}, {"files"}, 1),
        ({"messages": said({"type": "document", "source": {"type": "text", "data": "x"}})}, set(), 1),
        ({"messages": said({"type": "tool_result", "tool_use_id": "t", "content": [IMAGE, IMAGE]})}, {"vision"}, 2),
        ({"messages": said({"type": "image", "source": {"type": "file", "file_id": "f"}})}, {"vision", "native"}, 1),
        ({"messages": said({"type": "search_result", "source": "s", "title": "t", "content": []})}, set(), 0),
        ({"tools": [{"name": "f", "input_schema": {}}]}, {"tools"}, 0),
        ({"tools": [{"type": "custom", "name": "f", "input_schema": {}}]}, {"tools"}, 0),
        ({"tools": [{"type": "web_search_20260318", "name": "web_search"}]}, {"tools", "native"}, 0),
        ({"mcp_servers": [{"url": "x"}]}, {"native"}, 0),
        ({"output_config": {"effort": "low"}}, set(), 0),
        ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, {"json_schema"}, 0),
    ],
)
def test_parse_messages_tells_the_needs(fields: dict[str, Any], needs: set[str], attachments: int) -> None:
    """What a request holds decides who may serve it; what chat has no words for stays with its own dialect."""
    request = parsed(**fields)
    wanted = {"native_messages" if need == "native" else need for need in needs}
    assert request.needs == {"messages", *wanted}
    assert request.attachments == attachments


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": said({"text": "x"})}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": said({"type": "tool_result", "content": 3})}, "messages[0].content[0].content"),
        ({"messages": said({"type": "image", "source": 3})}, "messages[0].content[0].source"),
        ({"system": 4}, "system"),
        ({"stream": "yes"}, "stream"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"temperature": "hot"}, "temperature"),
        ({"tools": [3]}, "tools[0]"),
        ({"router": {"nope": 1}}, "router.nope"),
    ],
)
def test_parse_messages_names_the_field_at_fault(fields: dict[str, Any], param: str) -> None:
    """A documented field with a wrong value is a 400 that says which."""
    with pytest.raises(InvalidRequest) as refused:
        parsed(**fields)
    assert refused.value.param is not None
    assert refused.value.param.startswith(param)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": "m"}', b"\xff{}", b"[" * 100_000])
def test_parse_messages_refuses_what_is_no_request(body: bytes) -> None:
    """Bad JSON of every kind is the caller's mistake."""
    with pytest.raises(InvalidRequest):
        parse_messages(body, "req_1", CALLER, {})


def test_parse_count_tokens_needs_no_limit() -> None:
    """`max_tokens` may be left out there, and whoever could answer may count."""
    body = json.dumps({"model": "m", "messages": said(IMAGE), "provider_specific_fields": None}).encode()
    request = parse_count_tokens(body, "req_1", CALLER, {})
    assert (request.endpoint, request.stream) == ("count_tokens", False)
    assert request.needs == {"messages"}
    with pytest.raises(InvalidRequest):
        parse_messages(body, "req_1", CALLER, {})


def test_estimated_count_grows_with_all_that_is_sent() -> None:
    """Text, tools and images count."""
    tools = [{"name": "f", "description": "d" * 400, "input_schema": {"type": "object"}}]
    sizes = [
        estimated_tokens(parsed(**fields))
        for fields in ({}, {"system": "x" * 40}, {"tools": tools}, {"messages": said(IMAGE)})
    ]
    assert sizes == sorted(set(sizes))
    assert sizes[1] == sizes[0] + 10
    answer = json.loads(estimated_count(parsed()).body)
    assert answer == {"input_tokens": sizes[0]}


@given(st.dictionaries(st.sampled_from(["messages", "system", "tools", "thinking", "metadata", "x"]), json_values))
def test_parse_messages_answers_whatever_it_gets(fields: dict[str, Any]) -> None:
    """Any JSON in any field is read or refused, never a crash."""
    with suppress(InvalidRequest):
        parsed(**fields)
