"""Chat requests as `generateContent` requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.chat import parse_chat
from router.wire.gemini.requests import generate_payload
from router.wire.gemini.turns import FOREIGN_SIGNATURE
from shared.errors import InvalidRequest, NotCarried
from tests.support.nouns import CALLER, chat_request
from tests.support.properties import json_values, text

PNG = "data:image/png;base64,iVBORw0KGgo="
WEATHER = {"name": "weather", "description": "Tell it.", "parameters": {"type": "object", "$defs": {"a": {}}}}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}


def sent(model: str = "gemini-2.5-flash", **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The request that reaches the backend for a chat request with `fields`, and what was changed."""
    body, changes = generate_payload(chat_request(**fields), model)
    return json.loads(body), changes


def turns(*messages: dict[str, Any], model: str = "gemini-2.5-flash") -> tuple[Any, tuple[str, ...]]:
    """The turns of a conversation, and what was changed."""
    payload, changes = sent(model, messages=list(messages))
    return payload["contents"], changes


def config(model: str = "gemini-2.5-flash", **fields: Any) -> tuple[Any, tuple[str, ...]]:
    """The generation config for a chat request with `fields`, and what was changed."""
    payload, changes = sent(model, **fields)
    return payload.get("generationConfig"), changes


def test_payload_of_a_plain_request_holds_the_turn_alone() -> None:
    """Nothing is invented: no config, no tools, no safety settings."""
    assert sent() == ({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}, ())
    assert sent(stream=True, stream_options={"include_usage": True}, temperature=None) == sent()


def test_payload_holds_a_whole_conversation() -> None:
    """System and developer texts go to the front, answers are the model's, results stand together behind calls."""
    payload, changes = sent(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "I look.", "tool_calls": [CALLED, {**CALLED, "id": "call_2"}]},
            {"role": "tool", "tool_call_id": "call_2", "content": '{"sky": "blue", "t": 1.50}'},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
            {"role": "assistant", "content": "Mixed."},
            {"role": "user", "content": "Thanks"},
        ]
    )
    city = {"city": "Zürich"}
    assert payload == {
        "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Weather?"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "I look."},
                    {"functionCall": {"id": "call_1", "name": "weather", "args": city}},
                    {"functionCall": {"id": "call_2", "name": "weather", "args": city}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "call_2", "name": "weather", "response": {"sky": "blue", "t": 1.5}}},
                    {"functionResponse": {"id": "call_1", "name": "weather", "response": {"output": "rain"}}},
                ],
            },
            {"role": "model", "parts": [{"text": "Mixed."}]},
            {"role": "user", "parts": [{"text": "Thanks"}]},
        ],
    }
    assert changes == ()


def test_payload_tells_a_system_message_that_moves() -> None:
    """A later instruction has no place of its own; a lone one becomes the turn that asks."""
    user, system = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Stop."}
    payload, changes = sent(messages=[user, system])
    assert payload["systemInstruction"] == {"parts": [{"text": "Stop."}]}
    assert changes == ("messages[1] moved to the front",)
    alone, told = sent(messages=[system])
    assert alone == {"contents": [{"role": "user", "parts": [{"text": "Stop."}]}]}
    assert told == ("the system message sent as the user's",)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": PNG}}, ("inlineData", "image/png", "iVBORw0KGgo=")),
        ({"type": "image_url", "image_url": {"url": "data:,a%20b"}}, ("inlineData", "text/plain", "YSBi")),
        (
            {"type": "image_url", "image_url": {"url": "http://h/a.JPG?x=1"}},
            ("fileData", "image/jpeg", "http://h/a.JPG?x=1"),
        ),
        ({"type": "image_url", "image_url": "https://h/a"}, ("fileData", None, "https://h/a")),
        (
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}},
            ("inlineData", "audio/mp3", "AA=="),
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}},
            ("inlineData", "application/pdf", "AA=="),
        ),
        ({"type": "file", "file": {"file_id": "files/abc"}}, ("fileData", None, "files/abc")),
    ],
)
def test_payload_carries_attachments(part: dict[str, Any], expected: tuple[str, str | None, str]) -> None:
    """What stands in the request goes as data, anything else as the address that it is."""
    contents, _ = turns({"role": "user", "content": [{"type": "text", "text": "See"}, part]})
    field, kind, value = expected
    told = {"data" if field == "inlineData" else "fileUri": value} | ({"mimeType": kind} if kind else {})
    assert contents[0]["parts"] == [{"text": "See"}, {field: told}]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "hologram"}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": ""}}]},
    ],
)
def test_payload_refuses_what_no_field_can_carry(message: dict[str, Any]) -> None:
    """It is another backend's to answer; the error names the field."""
    with pytest.raises(NotCarried) as caught:
        turns(message)
    assert str(caught.value.param).startswith("messages[0].")
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "wizard", "content": "1"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"tools": [{"type": "function", "function": {"name": 1}}]}, "tools[0].function.name"),
        ({"response_format": {"type": 5}}, "response_format.type"),
        ({"stop": 5}, "stop"),
        ({"reasoning_effort": 5}, "reasoning_effort"),
    ],
)
def test_payload_names_the_field_that_is_wrong(fields: dict[str, Any], param: str) -> None:
    """A caller's mistake is a 400 that says where."""
    with pytest.raises(InvalidRequest) as caught:
        sent(**fields)
    assert (caught.value.param, caught.value.retryable) == (param, False)


# --- tools ------------------------------------------------------------------------------------


def test_payload_declares_functions_with_their_schema_untouched() -> None:
    """The schema goes where JSON Schema may stand; what cannot be declared is told."""
    bare = {"type": "function", "function": {"name": "now", "strict": True}}
    payload, changes = sent(tools=[{"type": "function", "function": WEATHER}, bare, {"type": "custom", "custom": {}}])
    declared = {"name": "weather", "description": "Tell it.", "parametersJsonSchema": WEATHER["parameters"]}
    assert payload["tools"] == [{"functionDeclarations": [declared, {"name": "now"}]}]
    assert "toolConfig" not in payload
    assert changes == ("tools[2] dropped", "tools.function.strict dropped")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "f"}}, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"function": {"name": "f"}}]}},
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"function": {"name": "f"}}]}},
            {"mode": "VALIDATED", "allowedFunctionNames": ["f"]},
        ),
    ],
)
def test_payload_says_which_tool_must_be_called(choice: Any, expected: dict[str, Any]) -> None:
    """Each form of `tool_choice` has its counterpart."""
    payload, changes = sent(tools=[{"type": "function", "function": WEATHER}], tool_choice=choice)
    assert payload["toolConfig"] == {"functionCallingConfig": expected}
    assert changes == ()


def test_payload_takes_the_functions_of_older_clients() -> None:
    """`functions`, `function_call` and `role: function` are tools under older names."""
    payload, changes = sent(
        functions=[WEATHER],
        function_call={"name": "weather"},
        messages=[
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "rain"},
        ],
    )
    assert payload["tools"][0]["functionDeclarations"][0]["name"] == "weather"
    assert payload["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == ["weather"]
    answered = {"functionResponse": {"name": "weather", "response": {"output": "rain"}}}
    assert payload["contents"][2] == {"role": "user", "parts": [answered]}
    assert changes == ()


def test_payload_tells_what_of_tools_it_cannot_say() -> None:
    """One call at a time, and a choice among no tools, have no words here."""
    tools = [{"type": "function", "function": WEATHER}]
    assert sent(tools=tools, parallel_tool_calls=False)[1] == ("parallel_tool_calls dropped",)
    assert sent(tools=tools, parallel_tool_calls=True)[1] == ()
    assert sent(tools=tools, tool_choice="sometimes")[1] == ("tool_choice dropped",)
    assert sent(tools=[], tool_choice="auto")[1] == ("tool_choice dropped",)


def test_payload_restores_the_signatures_of_calls() -> None:
    """A signature goes back on its call; where a newer model's first call has none, Google's own stand-in does."""
    signed = CALLED | {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    asked = {"role": "user", "content": "?"}
    contents, changes = turns(asked, {"role": "assistant", "tool_calls": [signed, CALLED]}, model="gemini-3-pro")
    assert [part.get("thoughtSignature") for part in contents[1]["parts"]] == ["c2ln", None]
    assert changes == ()
    contents, changes = turns(asked, {"role": "assistant", "tool_calls": [CALLED, CALLED]}, model="gemini-3-pro")
    assert [part.get("thoughtSignature") for part in contents[1]["parts"]] == [FOREIGN_SIGNATURE, None]
    assert changes == (f"thought_signature set to {FOREIGN_SIGNATURE}",)
    foreign = CALLED | {"extra_content": {"somebody": 1, "google": 5}}
    contents, changes = turns(asked, {"role": "assistant", "tool_calls": [foreign]})
    assert "thoughtSignature" not in contents[1]["parts"][0]
    assert changes == ()


def test_payload_restores_the_signature_of_a_text() -> None:
    """It stands on the text's own part."""
    extra = {"google": {"thought_signature": "c2ln"}}
    contents, _ = turns(
        {"role": "assistant", "content": "So.", "extra_content": extra}, {"role": "user", "content": ""}
    )
    assert contents[0]["parts"] == [{"text": "So.", "thoughtSignature": "c2ln"}]


def test_payload_carries_arguments_and_results_as_they_are_written() -> None:
    """Numbers keep every digit; arguments that are no object are wrapped in one, and told."""
    body = rb'{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{\"n\": 1.000000000000000000001}"}}]},{"role":"tool","tool_call_id":"c","content":"{\"n\":1e999}"}]}'  # noqa: E501
    payload, _ = generate_payload(parse_chat(body, "req_1", CALLER, {}), "gemini-2.5-flash")
    assert b'{"n": 1.000000000000000000001}' in payload
    assert b'{"n":1e999}' in payload
    broken = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}
    contents, changes = turns({"role": "assistant", "tool_calls": [broken]})
    assert contents[0]["parts"][0]["functionCall"]["args"] == {"arguments": '{"a": '}
    assert changes == ("messages[0].tool_calls[0].function.arguments wrapped in an object",)


def test_payload_carries_pictures_in_results() -> None:
    """Text is the response, a picture stands beside it."""
    content = [{"type": "text", "text": "seen"}, {"type": "image_url", "image_url": {"url": PNG}}]
    contents, _ = turns({"role": "assistant", "tool_calls": [CALLED]}, {"role": "tool", "tool_call_id": "call_1", "content": content})  # fmt: skip  # noqa: E501
    told = contents[1]["parts"][0]["functionResponse"]
    assert told["response"] == {"output": "seen"}
    assert told["parts"] == [{"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}]


def test_payload_tells_what_of_a_message_it_leaves_out() -> None:
    """Names, hints to caches, thoughts and empty answers have no place in a turn."""
    hinted = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    detailed = {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}
    _, changes = turns(
        {"role": "user", "name": "Ann", "content": [hinted, detailed]},
        {"role": "assistant", "content": "b", "reasoning_content": "hm"},
        {"role": "assistant", "content": ""},
    )
    assert changes == (
        "cache_control dropped",
        "image_url.detail dropped",
        "messages.name dropped",
        "messages.reasoning_content dropped",
        "messages[2] dropped",
    )


# --- the config -------------------------------------------------------------------------------


def test_config_takes_every_parameter_that_has_a_counterpart() -> None:
    """They go over under their names there, with the values that the client wrote."""
    told, changes = config(
        temperature=0.25, top_p=0.5, top_k=40, n=2, presence_penalty=-1, frequency_penalty=1, max_tokens=9, seed=7,
        stop=["a", "b"], logprobs=True, top_logprobs=3, modalities=["text", "image"],
    )  # fmt: skip
    assert told == {
        "temperature": 0.25, "topP": 0.5, "topK": 40, "candidateCount": 2, "presencePenalty": -1, "frequencyPenalty": 1,
        "maxOutputTokens": 9, "stopSequences": ["a", "b"], "seed": 7, "responseLogprobs": True, "logprobs": 3,
        "responseModalities": ["TEXT", "IMAGE"],
    }  # fmt: skip
    assert changes == ()
    assert config(max_tokens=9, max_completion_tokens=8, stop="x")[0] == {"maxOutputTokens": 8, "stopSequences": ["x"]}


def test_config_tells_what_it_drops_or_alters() -> None:
    """Whatever has no counterpart is named, known to the router or not; null is no wish."""
    told, changes = config(logit_bias={"1": 2}, user="u", frobnicate=1, metadata=None, top_logprobs=2)
    assert told is None
    assert changes == ("top_logprobs dropped", "logit_bias dropped", "user dropped", "frobnicate dropped")
    assert config(seed=2**31 + 5) == ({"seed": 5}, ("seed set to 5",))
    assert config(modalities=["text", "audio"], audio={}) == (None, ("modalities set to text", "audio dropped"))
    assert config(response_format={"type": "grammar"})[1] == ("response_format dropped",)


def test_config_asks_for_json() -> None:
    """A schema goes over untouched; plain JSON mode asks for JSON only."""
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    kind = {"responseMimeType": "application/json"}
    assert config(response_format=wanted) == (kind | {"responseJsonSchema": schema}, ())
    assert config(response_format={"type": "json_object"}) == (kind, ())
    assert config(response_format={"type": "text"}) == (None, ())


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "change"),
    [
        ("gemini-2.5-flash", "medium", {"thinkingBudget": 8192, "includeThoughts": True}, None),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}, None),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}, "128 tokens"),
        ("models/gemini-2.5-flash", "xhigh", {"thinkingBudget": 24576, "includeThoughts": True}, "high"),
        ("gemini-3-flash-preview", "high", {"thinkingLevel": "HIGH", "includeThoughts": True}, None),
        ("gemini-3-flash-preview", "none", {"thinkingLevel": "MINIMAL"}, "minimal"),
        ("gemini-3.1-pro", "minimal", {"thinkingLevel": "LOW", "includeThoughts": True}, "low"),
        ("gemini-3.1-pro", "xhigh", {"thinkingLevel": "HIGH", "includeThoughts": True}, "high"),
    ],
)
def test_config_tells_how_much_to_think(model: str, effort: str, thinking: dict[str, Any], change: str | None) -> None:
    """By level where the model knows levels, else by budget; what it cannot do is told."""
    told, changes = config(model, reasoning_effort=effort)
    assert told == {"thinkingConfig": thinking}
    assert changes == (() if change is None else (f"reasoning_effort set to {change}",))


def test_payload_takes_what_a_client_says_to_google_alone() -> None:
    """The place that Google's own OpenAI endpoint reads is read here too, and wins."""
    google = {"thinking_config": {"thinking_budget": 5}, "cached_content": "cachedContents/1", "else": 1}
    payload, changes = sent(extra_body={"google": google}, reasoning_effort="low")
    assert payload["generationConfig"] == {"thinkingConfig": {"thinking_budget": 5}}
    assert payload["cachedContent"] == "cachedContents/1"
    assert changes == ("extra_body.google.else dropped",)
    assert sent(extra_body={"x": 1})[1] == ("extra_body dropped",)


# --- properties -------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), text), min_size=1, max_size=6))
def test_payload_loses_no_text(said: list[tuple[str, str]]) -> None:
    """Every text is in the request, each kind in its order."""
    payload, _ = sent(messages=[{"role": role, "content": words} for role, words in said])
    system = [part["text"] for part in payload.get("systemInstruction", {}).get("parts", [])]
    contents = [part["text"] for turn in payload["contents"] for part in turn["parts"]]
    assert sorted(one for one in system + contents if one) == sorted(words for _, words in said if words)
    assert [one for one in contents if one] == [w for r, w in said if w and (r != "system" or not system)]


@given(st.dictionaries(text, json_values, max_size=3), st.dictionaries(text, json_values, max_size=3))
def test_payload_keeps_arguments_and_results(arguments: dict[str, Any], result: dict[str, Any]) -> None:
    """Whatever JSON a tool is called with and answers goes over as the same JSON."""
    function = {"name": "f", "arguments": json.dumps(arguments)}
    contents, _ = turns(
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": json.dumps(result)},
    )
    assert contents[0]["parts"][0]["functionCall"]["args"] == arguments
    assert contents[1]["parts"][0]["functionResponse"]["response"] == result


@given(text)
def test_payload_keeps_a_tools_text(result: str) -> None:
    """A result that is no object comes back out of `output` as it was."""
    called = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]
    contents, _ = turns({"role": "assistant", "tool_calls": called}, {"role": "tool", "tool_call_id": "c", "content": result})  # fmt: skip  # noqa: E501
    response = contents[1]["parts"][0]["functionResponse"]["response"]
    assert response == {"output": result} or response == json.loads(result)
