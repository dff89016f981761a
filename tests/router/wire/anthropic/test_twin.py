"""Messages requests as chat requests: nothing refused, nothing lost in silence."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import InferenceRequest
from router.wire.anthropic.bridge import MessagesBridge
from router.wire.anthropic.parse import parse_messages
from router.wire.anthropic.requests import messages_request
from router.wire.chat import parse_chat
from shared.errors import InvalidRequest
from tests.support.nouns import CALLER
from tests.support.properties import json_values, text

Blocks = list[dict[str, Any]]
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {"x": {"type": "number"}}}}


def asked(**fields: Any) -> InferenceRequest:
    """Return the request that a Messages body with these fields makes."""
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return parse_messages(json.dumps(body).encode(), "req_1", CALLER, {})


def twin(**fields: Any) -> tuple[Any, set[str]]:
    """Return the chat body for a Messages body with these fields, and what was told."""
    request = MessagesBridge(asked(**fields)).request
    assert request.endpoint == "chat"
    return json.loads(request.body), set(request.changes)


def user(*blocks: Any) -> list[Any]:
    """Return a conversation of one turn."""
    return [{"role": "user", "content": list(blocks)}]


def test_the_twin_has_the_plain_fields() -> None:
    """System, limit, stops, sampling, tools and caller have their counterparts."""
    body, changes = twin(
        system=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        stop_sequences=["x"],
        temperature=0.5,
        top_p=0.9,
        stream=True,
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        metadata={"user_id": '{"device":"d"}'},
    )
    function = {"name": "f", "parameters": TOOL["input_schema"], "description": "d"}
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "a\nb"}, {"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "stop": ["x"],
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "user": '{"device":"d"}',
    }
    assert changes == set()


def test_the_twin_knows_its_own_fields() -> None:
    """The spans belong to the new body, and what it needs is chat."""
    request = MessagesBridge(asked(tools=[TOOL], temperature=0)).request
    start, end = request.spans["model"]
    assert request.body[start:end] == b'"m"'
    assert request.needs == {"chat", "tools"}
    assert (request.usage_asked, request.deterministic) == (True, True)


@pytest.mark.parametrize(
    ("fields", "kept", "changes"),
    [
        ({"top_k": 4}, {}, {"top_k dropped"}),
        ({"context_management": {"edits": []}}, {}, {"context_management dropped"}),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, {}, {"thinking dropped"}),
        ({"thinking": {"type": "disabled"}}, {}, {"thinking dropped"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}, set()),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, {"reasoning_effort": "high"}, set()),
        ({"output_config": {"effort": "medium"}}, {"reasoning_effort": "medium"}, set()),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}, {"output_config.effort set to high"}),
        ({"system": [{"type": "text", "text": "", "cache_control": {}}]}, {}, {"cache_control dropped"}),
        ({"max_tokens": 0}, {"max_tokens": 1}, {"max_tokens set to 1"}),
    ],
)
def test_the_twin_tells_what_it_lost(fields: dict[str, Any], kept: dict[str, Any], changes: set[str]) -> None:
    """What chat has no words for is dropped and told, never refused."""
    body, told = twin(**fields)
    assert told == changes
    assert body == {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9} | kept


def test_the_twin_asks_for_a_schema() -> None:
    """`output_config.format` is `response_format`."""
    body, _ = twin(output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}})
    wanted = {"name": "output", "strict": True, "schema": {"type": "object"}}
    assert body["response_format"] == {"type": "json_schema", "json_schema": wanted}


def test_the_twin_tells_a_conversation_with_tools() -> None:
    """Calls keep their bytes; results come right behind them, what is no text in them with the user."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    calls = [{"type": "tool_use", "id": f"t{i}", "name": "f", "input": {"x": i}} for i in (1, 2)]
    turns = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "h", "signature": "s"}, *calls]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "and"},
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "r"}, image]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "bad", "is_error": True},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "So"}]},
    ]
    body, changes = twin(messages=turns)
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    assert body["messages"] == [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                {"id": "t2", "type": "function", "function": {"name": "f", "arguments": '{"x": 2}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "r"},
        {"role": "tool", "tool_call_id": "t2", "content": "bad"},
        {"role": "user", "content": [url, {"type": "text", "text": "and"}]},
        {"role": "assistant", "content": "So"},
    ]
    assert changes == {
        "thinking blocks dropped",
        "tool_result.is_error dropped",
        "attachments of tool results moved to the user's message",
        "the beginning of the answer sent as a turn",
    }


def test_the_twin_carries_documents() -> None:
    """A PDF is a file, text is text; what only Anthropic can read is told as dropped."""
    sources: Blocks = [
        {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
        {"type": "text", "media_type": "text/plain", "data": "plain"},
        {"type": "content", "content": [{"type": "text", "text": "inner"}]},
        {"type": "url", "url": "https://x/y.pdf"},
    ]
    result = {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "found"}]}
    odd = {"type": "container_upload", "file_id": "f"}
    documents = [{"type": "document", "source": source} for source in sources]
    body, changes = twin(messages=user(*documents, result, odd))
    assert body["messages"][0]["content"] == [
        {"type": "file", "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,aGk="}},
        {"type": "text", "text": "plain"},
        {"type": "text", "text": "inner"},
        {"type": "text", "text": "t\ns\n\nfound"},
    ]
    assert changes == {"document blocks dropped", "container_upload blocks dropped"}
    _, changes = twin(messages=user(*({**one, "title": "T", "context": "C"} for one in documents[:1])))
    assert changes == {"document.context dropped"}
    _, changes = twin(messages=user({**documents[1], "title": "T", "context": ""}))
    assert changes == {"document.title dropped"}


def test_the_twin_tells_what_its_tools_lost() -> None:
    """What a tool says beside its function is named; what asks for nothing is not."""
    extra = {"defer_loading": True, "eager_input_streaming": False, "input_examples": [{"x": 1}], "strict": True}
    body, changes = twin(tools=[{**TOOL, **extra}])
    function = {"name": "f", "parameters": TOOL["input_schema"], "description": "d", "strict": True}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert changes == {"tools.defer_loading dropped", "tools.input_examples dropped"}


@given(
    st.lists(st.dictionaries(st.sampled_from(["text", "source", "content", "id", "input"]), json_values), max_size=3)
)
def test_the_twin_answers_whatever_it_gets(blocks: Blocks) -> None:
    """Whatever a block holds is translated or refused as the caller's mistake."""
    kinds = ["text", "tool_result", "document"]
    turns = user(*({"type": kinds[i], **block} for i, block in enumerate(blocks)))
    with suppress(InvalidRequest):
        twin(messages=[*turns, {**turns[0], "role": "assistant"}])


words = text.filter(str.strip)
arguments = st.dictionaries(text, json_values, max_size=2)


@given(st.lists(st.tuples(words, st.lists(arguments, max_size=2)), min_size=1, max_size=3))
def test_chat_to_messages_and_back_loses_nothing(rounds: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """Text, calls, ids, arguments and results survive the way there and back, in order."""
    messages: Blocks = [{"role": "system", "content": "s"}]
    for number, (said, calls) in enumerate(rounds):
        messages.append({"role": "user", "content": said})
        made = [
            {"id": f"c{number}_{i}", "type": "function", "function": {"name": "f", "arguments": json.dumps(value)}}
            for i, value in enumerate(calls)
        ]
        messages.append({"role": "assistant", "content": said, **({"tool_calls": made} if made else {})})
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": said} for call in made]
    request = MessagesBridge(asked()).request
    chat = json.loads(request.body) | {"messages": messages}
    whole = json.dumps(chat).encode()
    there, changes = messages_request(_reparsed(whole), "claude-x")
    back = MessagesBridge(parse_messages(there, "req_1", CALLER, {})).request
    assert changes == ()
    assert json.loads(back.body)["messages"] == messages


def _reparsed(body: bytes) -> InferenceRequest:
    return parse_chat(body, "req_1", CALLER, {})


def test_caller_of_a_long_name_is_left_out_and_told() -> None:
    """OpenAI refuses a `user` of more than 64 characters, which that of Claude Code has."""
    body, changes = twin(metadata={"user_id": "u" * 65})
    assert "user" not in body
    assert changes == {"metadata.user_id dropped"}
