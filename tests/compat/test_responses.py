"""Responses: passed through where the backend speaks them (`native`), bridged to chat where not (`m`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.support.actor.mind import CITY, TEXT
from tests.support.sdk import acted

BOTH = pytest.mark.parametrize("model", ["native", "m"])
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CUSTOM: Any = {
    "type": "custom",
    "name": "apply_patch",
    "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
}
WRITTEN = f'{{"city" : "{CITY}"}}'


@BOTH
async def test_response_is_the_official_shape(tmp_path: Path, model: str) -> None:
    """Text, items with ids, a status and the usage."""
    async with acted(tmp_path) as there:
        answer = await there.openai.responses.create(model=model, input="Hi", instructions="Be kind.")
        Response.model_validate(answer.to_dict())
        assert answer.output_text == TEXT
        assert answer.status == "completed"
        assert answer.id.startswith("resp")
        assert all(item.id for item in answer.output)
        assert answer.usage is not None
        assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (11, 5, 16)
        assert answer.usage.input_tokens_details.cached_tokens == 3
        assert answer.usage.output_tokens_details.reasoning_tokens == 2
        assert answer._request_id.startswith("req_")  # type: ignore[union-attr]


async def test_native_request_is_passed_through(tmp_path: Path) -> None:
    """All items, tools and fields that Codex sends reach such a backend as they are, unknown ones too."""
    sent = {
        "instructions": "You are Codex.",
        "input": [
            {"type": "message", "id": "i1", "role": "developer", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "reasoning", "id": "r1", "summary": [], "encrypted_content": "gAAA="},
            {"type": "custom_tool_call", "id": "c1", "call_id": "x", "name": "apply_patch", "input": "*** Begin"},
            {"type": "custom_tool_call_output", "call_id": "x", "output": "ok"},
            {"type": "some_new_item", "novelty": [1]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Grüße"}]},
        ],
        "tools": [WEATHER, CUSTOM, {"type": "web_search", "x": 1}, {"type": "local_shell"}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": False,
        "stream": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "client_metadata": {"a": "b"},
        "text": {"verbosity": "low"},
        "model": "native",
    }
    async with acted(tmp_path) as there:
        body = json.dumps(sent, ensure_ascii=False).encode()
        answer = await there.router.client.post("/v1/responses", content=body)
        assert answer.status_code == 200, answer.text
        assert there.seen[-1].body == body.replace(b'"native"', b'"up"')
        assert there.seen[-1].path == "/v1/responses"


async def raw_events(there: Any, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a stream, name and data; each is an `event:` and a `data:` line."""
    answer = await there.router.client.post("/v1/responses", json={"input": "Hi", "stream": True, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.strip("\n").split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        found.append((name[7:], json.loads(data[6:])))
    return found


@BOTH
async def test_response_events_are_well_formed(tmp_path: Path, model: str) -> None:
    """The `event:` line is the type, numbers rise by one, created comes first and completed last, no `[DONE]`."""
    async with acted(tmp_path) as there:
        found = await raw_events(there, model=model)
        assert all(name == data["type"] for name, data in found)
        assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
        names = [name for name, _ in found]
        assert names[0] == "response.created"
        assert names[-1] == "response.completed"
        wanted = [
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
        ]
        places = [names.index(name) for name in wanted]
        assert places == sorted(places)
        text = "".join(data["delta"] for name, data in found if name == "response.output_text.delta")
        assert text == TEXT
        final = found[-1][1]["response"]
        Response.model_validate(final)
        done = [data["item"] for name, data in found if name == "response.output_item.done"]
        assert final["output"] == done
        assert {data["item_id"] for _, data in found if "item_id" in data} <= {item["id"] for item in done}


async def test_unknown_response_events_pass(tmp_path: Path) -> None:
    """An event that the router has never heard of reaches the client as it is."""
    async with acted(tmp_path) as there:
        found = await raw_events(there, model="native")
        assert (
            "response.brand_new_event",
            {"type": "response.brand_new_event", "sequence_number": 2, "novelty": {"a": 1}},
        ) in found


@BOTH
async def test_response_tools_keep_ids_and_arguments(tmp_path: Path, model: str) -> None:
    """A call, its streamed twin, and the turn that replays it by its ids."""
    asked: Any = [{"role": "user", "content": "the weather"}]
    async with acted(tmp_path) as there:
        answer = await there.openai.responses.create(model=model, input=asked, tools=[WEATHER])
        call: Any = answer.output[-1]
        assert (call.type, call.name, call.arguments) == ("function_call", "weather", WRITTEN)
        found = await raw_events(there, model=model, input=asked, tools=[WEATHER])
        pieces = [data["delta"] for name, data in found if name == "response.function_call_arguments.delta"]
        assert "".join(pieces) == WRITTEN
        (done,) = [data for name, data in found if name == "response.function_call_arguments.done"]
        assert done["arguments"] == WRITTEN
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sun ☀"}
        then = await there.openai.responses.create(model=model, input=[*asked, call.to_dict(), output], tools=[WEATHER])
        assert then.output_text == "The tool said: sun ☀"
        if model == "m":
            *_, replayed, result = there.seen[-1].json["messages"]
            assert replayed["tool_calls"][0]["id"] == result["tool_call_id"] == call.call_id
            assert replayed["tool_calls"][0]["function"]["arguments"] == WRITTEN


async def test_bridge_translates_a_request_to_chat(tmp_path: Path) -> None:
    """Instructions, items, tools, limits and formats find their places; what has none is told in a header."""
    async with acted(tmp_path) as there:
        reply = await there.openai.responses.with_raw_response.create(
            model="m",
            instructions="Be kind.",
            input=[
                {"role": "user", "content": [{"type": "input_text", "text": "Look"}]},
                {"role": "assistant", "content": "Yes?"},
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "At this"},
                        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
                    ],
                },
            ],
            max_output_tokens=50,
            temperature=0.5,
            top_p=0.9,
            reasoning={"effort": "low"},
            parallel_tool_calls=False,
            tools=[WEATHER],
            tool_choice={"type": "function", "name": "weather"},
            metadata={"a": "b"},
        )
        assert reply.status_code == 200
        sent = there.seen[-1].json
        assert there.seen[-1].path == "/v1/chat/completions"
        assert sent["messages"][0]["role"] in ("system", "developer")
        assert sent["messages"][0]["content"] == "Be kind."
        assert [message["role"] for message in sent["messages"][1:]] == ["user", "assistant", "user"]
        assert sent["messages"][3]["content"][1]["image_url"] == {"url": "data:image/png;base64,AAAA", "detail": "low"}
        assert sent["tools"][0]["function"]["name"] == "weather"
        assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
        assert (sent["temperature"], sent["top_p"], sent["parallel_tool_calls"]) == (0.5, 0.9, False)
        assert 50 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))
        assert sent["reasoning_effort"] == "low"


@BOTH
async def test_response_text_formats(tmp_path: Path, model: str) -> None:
    """A JSON schema for the text holds."""
    form: Any = {"format": {"type": "json_schema", "name": "x", "strict": True, "schema": WEATHER["parameters"]}}
    async with acted(tmp_path) as there:
        answer = await there.openai.responses.create(model=model, input="Hi", text=form)
        assert json.loads(answer.output_text) == {"city": CITY}


@BOTH
async def test_response_errors_are_openais(tmp_path: Path, model: str) -> None:
    """Before the first event a status; afterwards an event that ends the stream and is no completion."""
    async with acted(tmp_path) as there:
        with pytest.raises(openai.BadRequestError) as caught:
            await there.openai.responses.create(model=model, input="fail with 400")
        assert caught.value.code == "code_400"
        with pytest.raises(openai.NotFoundError):
            await there.openai.responses.create(model="nobody", input="Hi")
        found = await raw_events(there, model=model, input="break off")
        names = [name for name, _ in found]
        assert names[-1] in ("error", "response.failed")
        assert "response.completed" not in names


@BOTH
async def test_stored_responses_can_be_continued(tmp_path: Path, model: str) -> None:
    """`previous_response_id` brings the conversation back, where the router bridges."""
    async with acted(tmp_path) as there:
        first = await there.openai.responses.create(model=model, input="My name is Ann.", store=True)
        await there.openai.responses.create(model=model, input="Who am I?", previous_response_id=first.id)
        sent = there.seen[-1].json
        if model == "native":
            assert sent["previous_response_id"] == first.id
        else:
            texts = json.dumps(sent["messages"], ensure_ascii=False)
            assert "My name is Ann." in texts
            assert "Who am I?" in texts
