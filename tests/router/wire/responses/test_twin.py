"""A Responses request as a chat request, and what is told of the difference."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.chat import parse_chat
from router.wire.responses.bridge import ResponsesBridge
from router.wire.responses.twin import chat_twin
from shared.errors import InvalidRequest
from tests.router.wire.responses.requests import responses_request
from tests.support.nouns import CALLER
from tests.support.properties import json_values, text


def chat(**fields: Any) -> dict[str, Any]:
    """The chat body for a request with `fields`."""
    body: dict[str, Any] = json.loads(chat_twin(responses_request(**fields)).request.body)
    return body


def messages(*items: Any) -> Any:
    """The chat messages for some items."""
    return chat(input=list(items))["messages"]


def test_twin_of_a_plain_request() -> None:
    """A text is a user's message; nothing is added, and nothing needs to be told."""
    request = responses_request(metadata={"a": "b"}, store=True, truncation="disabled")
    twin = chat_twin(request).request
    assert json.loads(twin.body) == {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    assert (twin.endpoint, len(twin.changes)) == ("chat", 0)
    assert twin.needs == {"chat"}
    assert parse_chat(twin.body, "req_1", CALLER, {}).spans == twin.spans


def test_twin_carries_what_chat_has_too() -> None:
    """Parameters reach the backend under the names that chat has for them."""
    body = chat(
        stream=True,
        temperature=0.25,
        top_p=0.5,
        user="u",
        prompt_cache_key="k",
        safety_identifier="s",
        service_tier="flex",
        max_output_tokens=7,
        reasoning={"effort": "low"},
        text={"verbosity": "high", "format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True}},
        top_logprobs=3,
        include=["message.output_text.logprobs"],
    )
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.25,
        "top_p": 0.5,
        "user": "u",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "service_tier": "flex",
        "max_completion_tokens": 7,
        "reasoning_effort": "low",
        "verbosity": "high",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"a": 1}, "strict": True},
        },
        "logprobs": True,
        "top_logprobs": 3,
    }
    assert chat(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in chat(text={"format": {"type": "text"}})


def test_twin_tells_what_chat_has_no_place_for() -> None:
    """Whatever is left out or altered is named, once."""
    request = responses_request(
        input=[{"role": "developer", "content": "a"}, {"role": "developer", "content": "b"}],
        truncation="auto",
        max_tool_calls=3,
        reasoning={"summary": "auto", "effort": None},
        include=["reasoning.encrypted_content"],
        client_metadata={"a": 1},
        stream=True,
        stream_options={"include_obfuscation": True},
        parallel_tool_calls=True,
        tool_choice="auto",
    )
    twin = ResponsesBridge(request).request
    assert set(twin.changes) == {
        "input role developer set to system",
        "truncation dropped",
        "max_tool_calls dropped",
        "reasoning.summary dropped",
        "include reasoning.encrypted_content dropped",
        "client_metadata dropped",
        "stream_options.include_obfuscation dropped",
    }
    assert "tool_choice" not in json.loads(twin.body)


def test_twin_of_content_parts() -> None:
    """Parts take the form that chat has for them; a single text becomes a string."""
    parts = [
        {"type": "input_text", "text": "Look:"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    user, assistant = messages(
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "output_text", "text": "No."}, {"type": "refusal", "refusal": "x"}]},
    )
    assert user["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    assert assistant["content"] == [{"type": "text", "text": "No."}, {"type": "refusal", "refusal": "x"}]
    assert messages({"role": "user", "content": [{"type": "input_text", "text": "é"}]})[0]["content"] == "é"


def test_twin_gathers_what_the_model_said_in_one_go() -> None:
    """A text and parallel calls are one message, and calls after an output another."""
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "output": "done"}
    told = messages(
        {"role": "user", "content": "Go"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": "Going"},
        {**call, "call_id": "a"},
        {**call, "call_id": "b"},
        {**output, "call_id": "a"},
        {**output, "call_id": "b"},
        {**call, "call_id": "c"},
        {"role": "assistant", "content": "Waiting"},
        {**output, "call_id": "c"},
    )
    assert [message["role"] for message in told] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert told[1]["content"] == "Going"
    assert [made["id"] for made in told[1]["tool_calls"]] == ["a", "b"]
    assert (told[4]["content"], [made["id"] for made in told[4]["tool_calls"]]) == ("Waiting", ["c"])


def test_twin_of_tools() -> None:
    """Functions are nested as chat has them; a custom tool is a function of one text, its grammar a description."""
    request = responses_request(
        tools=[
            {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": None},
            {"type": "function", "name": "g", "parameters": None, "output_schema": {}},
            {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "regex", "definition": "a+"}},
            {"type": "custom", "name": "d", "format": {"type": "text"}},
        ],
        tool_choice={"type": "custom", "name": "c"},
    )
    twin = chat_twin(request)
    body = json.loads(twin.request.body)
    free = {"type": "object", "required": ["input"], "additionalProperties": False}
    assert [tool["function"] for tool in body["tools"]] == [
        {"name": "f", "description": "d", "parameters": {"type": "object"}},
        {"name": "g"},
        {"name": "c", "parameters": {**free, "properties": {"input": {"type": "string", "description": "a+"}}}},
        {"name": "d", "parameters": {**free, "properties": {"input": {"type": "string"}}}},
    ]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "c"}}
    assert twin.toolbox.custom == {"c", "d"}
    assert twin.request.changes == ("tools[1].output_schema dropped", "tools[2].format set to a description")


def test_twin_of_allowed_tools() -> None:
    """Only the tools that may be called are offered."""
    tools = [{"type": "function", "name": name} for name in "abc"]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "b"}]}
    body = chat(tools=tools, tool_choice=allowed)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["b"]
    assert body["tool_choice"] == "required"


def test_twin_of_namespaces_and_of_optional_hosted_tools() -> None:
    """Tools of a namespace become functions that carry its name; hosted tools beside one's own are left out."""
    inner = [{"type": "function", "name": "close", "parameters": {}}, {"type": "custom", "name": "x" * 70}]
    space = {"type": "namespace", "name": "agents", "description": "d", "tools": inner}
    call = {"type": "function_call", "call_id": "c", "name": "close", "namespace": "agents", "arguments": "{}"}
    request = responses_request(
        tools=[space, {"type": "web_search", "external_web_access": True}],
        tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "agents"}]},
        input=[call, {"type": "function_call_output", "call_id": "c", "output": "ok"}],
    )
    twin = chat_twin(request)
    body = json.loads(twin.request.body)
    close, long = [tool["function"]["name"] for tool in body["tools"]]
    assert close == "agents__close" == body["messages"][0]["tool_calls"][0]["function"]["name"]
    assert len(long) == 64
    assert twin.toolbox.spaced == {close: ("agents", "close"), long: ("agents", "x" * 70)}
    assert twin.toolbox.custom == {long}
    assert "tools[1] web_search dropped" in twin.request.changes
    assert "tools[0].description dropped" in twin.request.changes


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "function_call", "call_id": 3, "name": "f", "arguments": ""}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
        ({"input": [{"type": "computer_call"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "mcp", "name": "x"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tools": [{"type": "function", "name": 3}]}, None),
    ],
)
def test_twin_refuses_what_chat_cannot_say(fields: dict[str, Any], param: str | None) -> None:
    """What has no form in chat is refused by its place."""
    with pytest.raises(InvalidRequest) as caught:
        chat_twin(responses_request(**fields))
    assert caught.value.param == param


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), text), min_size=1), json_values)
def test_twin_keeps_every_text_and_schema(said: list[tuple[str, str]], schema: Any) -> None:
    """Texts, their order, and foreign JSON come through as they are."""
    items = [{"role": role, "content": content} for role, content in said]
    body = chat(input=items, tools=[{"type": "function", "name": "f", "parameters": {"x": schema}}])
    assert [(message["role"], message["content"]) for message in body["messages"]] == said
    assert body["tools"][0]["function"]["parameters"] == {"x": schema}
