"""Chat completions, not streamed: what a client gets is what the upstream said, and the other way round."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tests.support.sdk import HELLO, events, whole, world
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, completion

ODD = 'Grüße, 世界 🌍\u2028 \\u00e9 \x7f \t"quoted" </script> \U0001f469\u200d\U0001f4bb e\u0301'

DOCUMENTED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "frequency_penalty": 0.25,
    "function_call": "none",
    "functions": [{"name": "old", "parameters": {"type": "object", "properties": {}}}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 99,
    "max_tokens": 98,
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "guess"},
    "presence_penalty": -0.5,
    "prompt_cache_key": "pck",
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "x", "strict": True, "schema": {"type": "object"}},
    },
    "safety_identifier": "sid",
    "seed": 7,
    "service_tier": "flex",
    "stop": ["a", "\n\n"],
    "store": False,
    "temperature": 0.1,
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}},
        {"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}},
    ],
    "top_logprobs": 3,
    "top_p": 0.9,
    "user": "u",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}


async def test_answer_is_the_official_shape(tmp_path: Path) -> None:
    """The SDK's own model validates the answer, and the keys that may be null are there."""
    async with world(tmp_path) as there:
        raw = (await there.router.chat()).json()
        ChatCompletion.model_validate(raw)
        assert "logprobs" in raw["choices"][0]
        assert "refusal" in raw["choices"][0]["message"]
        answer = await there.ask()
        assert (answer.object, answer.choices[0].finish_reason, answer.choices[0].index) == (
            "chat.completion",
            "stop",
            0,
        )
        assert isinstance(answer.created, int)


async def test_text_and_tool_arguments_are_exact(tmp_path: Path) -> None:
    """Unicode, escapes and the white space inside of tool arguments survive both ways, character for character."""
    arguments = '{ "city" : "Łódź \\ud83c\\udf0d", "n":1.0, "big":12345678901234567890 }\n'
    calls = [
        {"id": f"call_{n}", "type": "function", "function": {"name": "weather", "arguments": arguments}} for n in (1, 2)
    ]
    body = completion(ODD)
    body["choices"][0]["message"]["tool_calls"] = calls
    async with world(tmp_path, whole(body)) as there:
        answer = await there.ask(messages=[{"role": "user", "content": ODD}])
        assert there.seen[0].json["messages"][0]["content"] == ODD
        message = answer.choices[0].message
        assert message.content == ODD
        assert [(call.id, call.function.arguments) for call in message.tool_calls] == [
            ("call_1", arguments),
            ("call_2", arguments),
        ]


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
async def test_documented_parameter_reaches_the_upstream(tmp_path: Path, name: str) -> None:
    """Whatever the SDK can send arrives with the same value, and nothing arrives that was not sent."""
    fields = {name: DOCUMENTED[name]}
    async with world(tmp_path) as there:
        await there.ask(**fields)
        assert there.seen[0].json == {"model": "up-0", "messages": HELLO, **fields}


async def test_all_parameters_reach_the_upstream_together(tmp_path: Path) -> None:
    """Unknown ones too, whatever their names and types, in the order in which they were sent."""
    unknown = {"top_k": 5, "provider": {"order": ["a"]}, "x-odd.name": None, "": [1.50, 1e3], "nested": {"router": {}}}
    async with world(tmp_path) as there:
        sent = {"messages": HELLO, **DOCUMENTED, **unknown, "model": "m"}
        answer = await there.router.client.post("/v1/chat/completions", content=json.dumps(sent).encode())
        assert answer.status_code == 200, answer.text
        expected = json.dumps({**sent, "model": "up-0"}).encode()
        assert there.seen[0].body == expected


async def test_unknown_fields_of_the_answer_survive(tmp_path: Path) -> None:
    """At the top, in a choice, in its message and in the usage."""
    body = completion("x", provider="P", citations=["https://a"], service_tier="default")
    body["choices"][0] |= {"native_finish_reason": "STOP", "content_filter_results": {"hate": {"filtered": False}}}
    body["choices"][0]["message"] |= {"reasoning_details": [{"type": "x"}], "annotations": []}
    body["usage"] |= {"cost": 0.001, "queue_time": 0.5}
    async with world(tmp_path, whole(body)) as there:
        answer = await there.ask()
        assert answer.to_dict() == body
        assert answer.choices[0].message.reasoning_details == [{"type": "x"}]


async def test_roles_keep_their_order(tmp_path: Path) -> None:
    """`developer` stays `developer`; tool results and names stay where they are."""
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "function", "name": "f", "content": "43"},
        {"role": "user", "content": "And?"},
    ]
    async with world(tmp_path) as there:
        await there.ask(messages=messages)
        assert there.seen[0].json["messages"] == messages


async def test_parts_of_all_kinds_pass(tmp_path: Path) -> None:
    """Text, images, audio, files, refusals, cache marks, and a kind that nobody has heard of."""
    parts: Any = [
        {"type": "text", "text": "Look", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "refusal", "refusal": "no"},
        {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}},
    ]
    async with world(tmp_path) as there:
        await there.ask(messages=[{"role": "user", "content": parts}])
        assert there.seen[0].json["messages"][0]["content"] == parts


async def test_choices_logprobs_refusal_reasoning_and_usage_details_arrive(tmp_path: Path) -> None:
    """What only some backends send is read by the SDK as they sent it."""
    token = {"token": "Gr", "logprob": -0.25, "bytes": [71, 114], "top_logprobs": []}
    body = completion("one")
    body["choices"][0] |= {"logprobs": {"content": [token], "refusal": None}}
    refusing = {"role": "assistant", "content": None, "refusal": "I cannot.", "reasoning_content": "Hm."}
    body["choices"].append({"index": 1, "message": refusing, "logprobs": None, "finish_reason": "content_filter"})
    body["usage"] |= {
        "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2, "accepted_prediction_tokens": 1},
    }
    async with world(tmp_path, whole(body)) as there:
        answer = await there.ask(n=2, logprobs=True)
        first, second = answer.choices
        assert first.logprobs.content[0].bytes == [71, 114]
        assert (second.message.refusal, second.message.reasoning_content) == ("I cannot.", "Hm.")
        assert second.finish_reason == "content_filter"
        assert answer.usage.prompt_tokens_details.cached_tokens == 3
        assert answer.usage.completion_tokens_details.reasoning_tokens == 2


async def test_large_bodies_pass_both_ways(tmp_path: Path) -> None:
    """8 MB up, 5 MB down, exact."""
    text = "ü" * (4 * 1024 * 1024)
    reply = "x" * (5 * 1024 * 1024)
    async with world(tmp_path, whole(completion(reply))) as there:
        answer = await there.ask(messages=[{"role": "user", "content": text}])
        assert there.seen[0].json["messages"][0]["content"] == text
        assert answer.choices[0].message.content == reply


@pytest.mark.parametrize("value", [False, None])
async def test_stream_may_be_false_or_null(tmp_path: Path, value: bool | None) -> None:
    """Both ask for a whole answer, and both reach the upstream as they are."""
    async with world(tmp_path) as there:
        answer = await there.router.chat(stream=value)
        assert answer.headers["content-type"] == "application/json"
        assert there.seen[0].json["stream"] is value


async def test_model_is_renamed_for_the_upstream(tmp_path: Path) -> None:
    """A name with slashes is asked for, the upstream's own name is sent."""
    manifest = """
backends: [{name: b0, dialect: openai, base_url: 'URL0', tier: external}]
models:
  - id: org/family/model:free
    deployments: [{backend: b0, upstream_model: 'vendor/real-model@v2'}]
"""
    async with world(tmp_path, manifest=manifest) as there:
        await there.ask(model="org/family/model:free")
        assert there.seen[0].json["model"] == "vendor/real-model@v2"
        assert (await there.openai.models.retrieve("org/family/model:free")).id == "org/family/model:free"


@pytest.mark.parametrize("stream", [False, True])
async def test_compressed_upstream_is_read(tmp_path: Path, stream: bool) -> None:
    """An upstream that compresses, asked or not, reaches a client that takes gzip as text that it can read."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        data = json.dumps(completion("packed")).encode()
        if stream:
            headers["content-type"] = "text/event-stream"
            parts = [chunk({"role": "assistant", "content": "packed"}), chunk({}, "stop")]
            data = "".join(f"data: {json.dumps(part)}\n\n" for part in parts).encode() + b"data: [DONE]\n\n"
        await reply.body(gzip.compress(data), 200, headers)

    async with world(tmp_path, script) as there:
        if stream:
            chunks = await there.stream()
            assert "".join(part.choices[0].delta.content or "" for part in chunks) == "packed"
        else:
            assert (await there.ask()).choices[0].message.content == "packed"


async def test_structured_output_is_parsed(tmp_path: Path) -> None:
    """`parse` sends a strict schema and gets its object back."""

    class City(BaseModel):
        name: str

    async with world(tmp_path, whole(completion('{"name": "Łódź"}'))) as there:
        answer = await there.openai.chat.completions.parse(model="m", messages=HELLO, response_format=City)
        assert answer.choices[0].message.parsed == City(name="Łódź")
        assert there.seen[0].json["response_format"]["json_schema"]["strict"] is True


async def test_stream_helper_assembles_tool_calls(tmp_path: Path) -> None:
    """The SDK's `.stream()` gets one call after the other, by index, with the id in the first piece."""

    def call(index: int, **fields: Any) -> dict[str, Any]:
        return chunk({"tool_calls": [{"index": index, **fields}]})

    script = events(
        chunk({"role": "assistant", "content": None}),
        call(0, id="call_a", type="function", function={"name": "f", "arguments": ""}),
        call(0, function={"arguments": '{"x": '}),
        call(0, function={"arguments": "1}"}),
        call(1, id="call_b", type="function", function={"name": "g", "arguments": ""}),
        call(1, function={"arguments": "{}"}),
        chunk({}, "tool_calls"),
    )
    tools: Any = [
        {
            "type": "function",
            "function": {
                "name": name,
                "strict": True,
                "parameters": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
            },
        }
        for name in "fg"
    ]
    async with world(tmp_path, script) as there:
        async with there.openai.chat.completions.stream(model="m", messages=HELLO, tools=tools) as stream:
            done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
            final = await stream.get_final_completion()
    assert [(event.name, event.arguments) for event in done] == [("f", '{"x": 1}'), ("g", "{}")]
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert [call.id for call in calls] == ["call_a", "call_b"]
