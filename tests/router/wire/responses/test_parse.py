"""Reading Responses requests, and telling their errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from router.wire.responses.parse import error_event, parse_responses
from shared.errors import InvalidRequest, StreamInterrupted
from shared.sse import SSEReader
from tests.router.wire.responses.requests import responses_request
from tests.support.nouns import CALLER
from tests.support.properties import json_values

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": ""}, "model"),
    ({"model": 3}, "model"),
    ({"input": None}, "input"),
    ({"input": 3}, "input"),
    ({"input": [3]}, "input[0]"),
    ({"input": [{"role": 3, "content": "x"}]}, "input[0].role"),
    ({"input": [{"content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"text": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 3}]}]}, "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ({"stream": "yes"}, "stream"),
    ({"store": 1}, "store"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"tools": [{"name": "x"}]}, "tools[0].type"),
    ({"tools": {}}, "tools"),
    ({"text": {"format": 3}}, "text.format"),
    ({"reasoning": "high"}, "reasoning"),
    ({"previous_response_id": 3}, "previous_response_id"),
    ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "previous_response_id"),
    ({"router": {"cache": "x"}}, "router.cache"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_parse_names_the_field_at_fault(fields: dict[str, Any], param: str) -> None:
    """A documented field with a wrong type or value is refused by its name."""
    with pytest.raises(InvalidRequest) as caught:
        responses_request(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"model": "m", "input": "\xff"}', b"[" * 5000])
def test_parse_refuses_what_is_no_request(body: bytes) -> None:
    """What is not a JSON object in UTF-8 is refused."""
    with pytest.raises(InvalidRequest):
        parse_responses(body, "req_1", CALLER, {})


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set()),
        ({"tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "c"}]}, {"tools"}),
        ({"tools": [{"type": "web_search"}]}, {"tools", "native_responses"}),
        ({"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]}, {"tools", "hosted_tools"}),
        ({"tools": [{"type": "function", "name": "f"}, {"type": "mcp"}]}, {"tools", "native_responses"}),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]}, {"tools"}),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}]}, {"tools", "native_responses"}),
        ({"tools": []}, set()),
        ({"background": True}, {"native_responses"}),
        ({"background": False, "conversation": None, "prompt": None}, set()),
        ({"conversation": {"id": "conv_1"}}, {"native_responses"}),
        ({"prompt": {"id": "pmpt_1"}, "input": None}, {"native_responses"}),
        ({"tool_choice": {"type": "file_search"}}, {"native_responses"}),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, set()),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}}, {"json_schema"}),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, set()),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs"}),
        ({"include": ["reasoning.encrypted_content"]}, set()),
        ({"input": [{"type": "computer_call", "id": "x"}]}, {"native_responses"}),
        ({"input": [{"type": "local_shell_call", "id": "x"}]}, {"native_responses"}),
        ({"input": [{"id": "msg_1"}]}, set()),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]}, {"vision"}),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            {"vision", "native_responses"},
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, {"files"}),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}]},
            {"files", "native_responses"},
        ),
    ],
)
def test_parse_says_what_a_backend_must_be_able_to_do(fields: dict[str, Any], needs: set[str]) -> None:
    """What a request holds decides on who may serve it."""
    assert responses_request(**fields).needs == {"responses", *needs}


def test_parse_measures_text_and_attachments() -> None:
    """Texts are counted wherever they stand, attachments are only counted."""
    request = responses_request(
        instructions="four",
        input=[
            {"role": "user", "content": "four"},
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "four"}, {"type": "input_image", "image_url": "u"}],
            },
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "four"},
            {"type": "function_call_output", "call_id": "c", "output": "four"},
        ],
        max_output_tokens=9,
        stream=True,
    )
    assert (request.text_bytes, request.attachments, request.max_tokens, request.stream) == (20, 1, 9, True)


@given(json_values)
def test_parse_keeps_unknown_fields(value: Any) -> None:
    """A field that is not documented never stops a request, and stays in its bytes."""
    body = json.dumps({"model": "m", "input": "Hi", "client_metadata": value}).encode()
    request = parse_responses(body, "req_1", CALLER, {})
    assert request.body == body


def test_error_event_can_be_read_both_ways() -> None:
    """The error stands beside the type, as documented, and in an object, as libraries look for it."""
    (event,) = SSEReader().feed(error_event(StreamInterrupted("It broke.")))
    told = json.loads(event.data or b"")
    assert event.event == told["type"] == "error"
    assert (told["code"], told["message"], told["param"]) == ("stream_interrupted", "It broke.", None)
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert isinstance(told["sequence_number"], int)
