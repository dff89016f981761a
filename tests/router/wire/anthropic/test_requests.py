"""Chat requests as Messages requests: nothing lost in silence."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.anthropic.requests import messages_request
from shared.errors import InvalidRequest, NotCarried
from tests.support.nouns import chat_request
from tests.support.properties import json_values

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
TOLD = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1.50}'}}
SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}


def translated(model: str = "claude-sonnet-4-6", most: int | None = None, **fields: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the Messages body for a chat request with these fields, and what was told."""
    body, changes = messages_request(chat_request(**fields), model, most)
    return json.loads(body), changes


def user(*blocks: Any) -> dict[str, Any]:
    """Return a user's turn."""
    return {"role": "user", "content": list(blocks)}


def text(value: str, **more: Any) -> dict[str, Any]:
    """Return a block of text."""
    return {"type": "text", "text": value, **more}


def test_messages_request_translates_the_plain_fields() -> None:
    """Model, limit, stops, sampling and caller have their counterparts."""
    body, changes = translated(max_completion_tokens=9, stop="x", temperature=0.5, top_p=0.9, user="u", stream=True)
    assert body == {
        "model": "claude-sonnet-4-6",
        "messages": [user(text("Hi"))],
        "max_tokens": 9,
        "stop_sequences": ["x"],
        "temperature": 0.5,
        "top_p": 0.9,
        "metadata": {"user_id": "u"},
        "stream": True,
    }
    assert changes == ()


@pytest.mark.parametrize(
    ("fields", "kept", "changes"),
    [
        ({}, {"max_tokens": 4096}, {"max_tokens set to 4096"}),
        ({"max_tokens": 5, "temperature": 1.7}, {"temperature": 1}, {"temperature set to 1"}),
        ({"max_tokens": 5, "temperature": 0.1, "top_p": 1}, {"temperature": 0.1}, {"top_p dropped"}),
        ({"max_tokens": 5, "stop": ["a", "\n"]}, {"stop_sequences": ["a"]}, {"blank stop dropped"}),
        ({"max_tokens": 5, "seed": 3, "logprobs": True}, {}, {"seed dropped", "logprobs dropped"}),
        ({"max_tokens": 5, "frequency_penalty": 0, "n": 1, "store": False, "logit_bias": {}}, {}, set()),
        (
            {"max_tokens": 5, "top_k": 4, "context_management": {"a": 1}},
            {"top_k": 4, "context_management": {"a": 1}},
            (),
        ),
        ({"max_tokens": 5, "metadata": {"a": "b"}}, {}, {"metadata dropped"}),
        ({"max_tokens": 5, "metadata": {"user_id": "b"}}, {"metadata": {"user_id": "b"}}, ()),
        ({"max_tokens": 5, "service_tier": "default"}, {"service_tier": "standard_only"}, ()),
        ({"max_tokens": 5, "service_tier": "flex"}, {}, {"service_tier dropped"}),
        ({"max_tokens": 5, "response_format": {"type": "text"}}, {}, ()),
        ({"max_tokens": 5, "response_format": {"type": "json_object"}}, {}, {"response_format dropped"}),
        ({"max_tokens": 5, "router": {"policy": "p"}, "continue_final_message": True}, {}, ()),
    ],
)
def test_messages_request_tells_what_it_changes(fields: dict[str, Any], kept: dict[str, Any], changes: Any) -> None:
    """What has no counterpart is dropped and told; what asks for nothing is not worth a word; the rest passes."""
    body, told = translated(**fields)
    assert set(told) == set(changes)
    assert {key: value for key, value in body.items() if key not in ("model", "messages")} == {"max_tokens": 5} | kept


def test_messages_request_takes_the_models_own_limit() -> None:
    """Where the client sets none, the most that the model writes is the limit, and the client is told."""
    body, changes = translated(most=64000)
    assert (body["max_tokens"], changes) == (64000, ("max_tokens set to 64000",))


def test_messages_request_translates_a_conversation() -> None:
    """System apart, results with the user, turns of one role as one, calls with their own bytes."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [text("Really.", cache_control={"type": "ephemeral"})]},
        {"role": "user", "content": "One?"},
        {"role": "user", "content": [text("Two?"), text("")]},
        {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "r1"},
        {"role": "tool", "tool_call_id": "c2", "content": [text("r2")]},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "So"},
    ]
    request = chat_request(messages=messages, max_tokens=5)
    whole, changes = messages_request(request, "claude-sonnet-4-6")
    body = json.loads(whole)
    assert body["system"] == [text("Be brief."), text("Really.", cache_control={"type": "ephemeral"})]
    call = {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1.5}}
    assert body["messages"] == [
        user(text("One?"), text("Two?")),
        {"role": "assistant", "content": [call, {**call, "id": "c2"}]},
        user(
            {"type": "tool_result", "tool_use_id": "c1", "content": "r1"},
            {"type": "tool_result", "tool_use_id": "c2", "content": [text("r2")]},
            text("And?"),
        ),
        {"role": "assistant", "content": [text("So")]},
    ]
    assert b'{"x": 1.50}' in whole
    assert changes == ()


def test_messages_request_translates_parts() -> None:
    """Images and files become blocks with their source; a block of Anthropic's own passes."""
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}},
        {"type": "file", "file": {"file_id": "file_1"}},
        {"type": "search_result", "title": "t"},
    ]
    body, _ = translated(messages=[{"role": "user", "content": parts}])
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
    assert body["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "search_result", "title": "t"},
    ]


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, {"type": "tool", "name": "f"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": True}, None),
    ],
)
def test_messages_request_translates_tools(fields: dict[str, Any], choice: Any) -> None:
    """Tools and the choice among them have their counterparts."""
    body, changes = translated(tools=[TOOL], max_tokens=5, **fields)
    assert (body["tools"], body.get("tool_choice"), changes) == ([TOLD], choice, ())


def test_messages_request_narrows_tools_to_those_allowed() -> None:
    """`allowed_tools` leaves the others out."""
    other = {"type": "function", "function": {"name": "g", "strict": True}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    body, _ = translated(tools=[TOOL, other], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    schema = {"type": "object", "properties": {}}
    assert body["tools"] == [{"name": "g", "input_schema": schema, "strict": True}]
    assert body["tool_choice"] == {"type": "any"}


def test_messages_request_translates_the_functions_of_old() -> None:
    """`functions`, `function_call` and the role `function` still work."""
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "r"},
    ]
    body, _ = translated(messages=messages, functions=[TOOL["function"]], function_call={"name": "f"})
    call, result = body["messages"][1]["content"][0], body["messages"][2]["content"][0]
    assert call["id"] == result["tool_use_id"]
    assert (body["tools"], body["tool_choice"]) == ([TOLD], {"type": "tool", "name": "f"})


def test_messages_request_translates_a_schema() -> None:
    """A JSON schema for the answer is the dialect's `output_config.format`."""
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}
    body, changes = translated(response_format=wanted, max_tokens=5)
    assert (body["output_config"], changes) == ({"format": {"type": "json_schema", "schema": SCHEMA}}, ())


@pytest.mark.parametrize(
    ("model", "fields", "thinking", "config", "changes"),
    [
        ("claude-opus-4-8", {"reasoning_effort": "high"}, {"type": "adaptive"}, {"effort": "high"}, ()),
        ("claude-opus-4-8", {"reasoning": {"effort": "max"}}, {"type": "adaptive"}, {"effort": "max"}, ()),
        (
            "claude-opus-4-8",
            {"reasoning_effort": "minimal"},
            {"type": "adaptive"},
            {"effort": "low"},
            {"reasoning_effort set to low"},
        ),
        (
            "claude-sonnet-4-5-20250929",
            {"reasoning_effort": "low"},
            {"type": "enabled", "budget_tokens": 2048},
            None,
            (),
        ),
        ("claude-sonnet-4-20250514", {"reasoning_effort": "low"}, {"type": "enabled", "budget_tokens": 2048}, None, ()),
        ("claude-3-5-haiku-latest", {"reasoning_effort": "low"}, None, None, {"reasoning_effort dropped"}),
        ("kimi-k2", {"reasoning_effort": "high"}, {"type": "enabled", "budget_tokens": 8999}, None, ()),
        ("claude-opus-4-8", {"reasoning_effort": "none"}, {"type": "disabled"}, None, ()),
        (
            "claude-opus-4-8",
            {"reasoning_effort": "low", "temperature": 0},
            {"type": "adaptive"},
            {"effort": "low"},
            {"temperature dropped"},
        ),
        (
            "claude-opus-4-8",
            {"reasoning_effort": "low", "tools": [TOOL], "tool_choice": "required"},
            None,
            {"effort": "low"},
            (),
        ),
        (
            "claude-opus-4-8",
            {"thinking": {"type": "enabled", "budget_tokens": 1024}, "temperature": 1},
            {"type": "enabled", "budget_tokens": 1024},
            None,
            (),
        ),
    ],
)
def test_messages_request_translates_effort(
    model: str, fields: dict[str, Any], thinking: Any, config: Any, changes: Any
) -> None:
    """An effort becomes what the model knows: an effort, a budget, or nothing, which is told."""
    body, told = translated(model, max_tokens=9000, **fields)
    assert (body.get("thinking"), body.get("output_config"), set(told)) == (thinking, config, set(changes))


def test_signed_thinking_goes_back_first_and_unsigned_not_at_all() -> None:
    """The next turn gives back what Anthropic signed; thoughts of others stay here, and that is told."""
    signed = {"type": "thinking", "thinking": "t", "signature": "s"}
    redacted = {"type": "redacted_thinking", "data": "d"}
    blocks = [signed, {"type": "thinking", "thinking": "u", "signature": None}, redacted]
    turn = {"role": "assistant", "content": "a", "thinking_blocks": blocks, "reasoning_content": "tu"}
    body, changes = translated(messages=[{"role": "user", "content": "x"}, turn], max_tokens=5)
    assert body["messages"][1]["content"] == [signed, redacted, text("a")]
    assert changes == ("messages[].reasoning_content dropped",)


def test_a_budget_is_not_asked_for_where_the_last_call_lost_its_thinking() -> None:
    """A model that thinks on a budget refuses a call without the thinking before it; so it does not think."""
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
    ]
    fields: dict[str, Any] = {"messages": messages, "max_tokens": 9000, "reasoning_effort": "low"}
    body, changes = translated("claude-sonnet-4-5", **fields)
    assert "thinking" not in body
    assert changes == ("reasoning_effort dropped",)


def test_odd_conversations_are_made_sendable_and_told() -> None:
    """System alone, late system messages, foreign ids and arguments that are no JSON still get an answer."""
    body, changes = translated(messages=[{"role": "system", "content": "s"}], max_tokens=5)
    assert (body["messages"], changes) == ([user(text("s"))], ("system sent as user",))
    call = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": "oops"}}
    messages = [
        {"role": "user", "content": "x", "name": "joe"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "functions.f:0", "content": ""},
        {"role": "system", "content": "late"},
    ]
    body, changes = translated(messages=messages, max_tokens=5)
    assert body["messages"][1]["content"][0] == {
        "type": "tool_use",
        "id": "functions_f_0",
        "name": "f",
        "input": {"arguments": "oops"},
    }
    assert body["messages"][2]["content"][0]["tool_use_id"] == "functions_f_0"
    assert body["system"] == [text("late")]
    assert set(changes) == {
        "messages[].name dropped",
        "tool call ids rewritten",
        "tool_calls[].function.arguments wrapped in an object",
        "later system messages moved to the front",
    }


@given(st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "thinking_blocks"]), json_values)))
def test_messages_request_answers_whatever_it_gets(messages: list[Any]) -> None:
    """Whatever a message holds is translated or refused as the caller's mistake."""
    turns = [{"role": "user", "content": "x", **message} for message in messages]
    turns = [{**turn, "role": str(turn["role"]), "content": "x"} for turn in turns] or [{"role": "user"}]
    with suppress(InvalidRequest):
        translated(messages=turns)


def test_empty_messages_are_dropped_and_told() -> None:
    """A turn that says nothing is refused there; a conversation of nothing but such has no place at all."""
    said = [{"role": "user", "content": ""}, {"role": "user", "content": "Hi"}]
    whole, changes = translated(messages=said)
    assert whole["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert "empty messages dropped" in changes
    with pytest.raises(NotCarried):
        translated(messages=said[:1])
