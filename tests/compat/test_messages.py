"""Messages, as the Anthropic SDK uses them: native (`claude`), and translated to OpenAI's chat (`m`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import Message

from tests.support.actor.messages import SIGNATURE
from tests.support.actor.mind import CITY, TEXT
from tests.support.sdk import CLIENT_KEY, World, acted

BOTH = pytest.mark.parametrize("model", ["claude", "m"])
HI: Any = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
VERSION = {"anthropic-version": "2023-06-01"}


@asynccontextmanager
async def speaking(folder: Path, **settings: Any) -> AsyncIterator[tuple[World, anthropic.AsyncAnthropic]]:
    """A router in front of the actor, and Anthropic's SDK."""
    async with acted(folder, **settings) as there:
        async with anthropic.AsyncAnthropic(base_url=there.router.url, api_key=CLIENT_KEY, max_retries=0) as client:
            yield there, client


@BOTH
async def test_message_is_the_official_shape(tmp_path: Path, model: str) -> None:
    """Blocks, a stop reason, and usage where cached tokens are told apart."""
    async with speaking(tmp_path) as (_, client):
        answer = await client.messages.create(model=model, max_tokens=50, messages=HI)
        Message.model_validate(answer.to_dict())
        assert [block.to_dict() for block in answer.content][-1]["text"] == TEXT
        assert (answer.type, answer.role, answer.stop_reason) == ("message", "assistant", "end_turn")
        assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (
            8,
            3,
            5,
        )


async def test_native_message_is_passed_through(tmp_path: Path) -> None:
    """Everything that Claude Code sends reaches the backend as it is, unknown fields too; so does the answer."""
    sent = {
        "max_tokens": 32000,
        "system": [{"type": "text", "text": "You are…", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Grüße"}]}],
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "metadata": {"user_id": '{"device_id":"x"}'},
        "tools": [WEATHER, {"type": "bash_20250124", "name": "bash"}],
        "brand_new": {"a": [1.50]},
        "stream": False,
        "model": "claude",
    }
    async with acted(tmp_path) as there:
        body = json.dumps(sent, ensure_ascii=False).encode()
        answer = await there.router.client.post("/v1/messages?beta=true", content=body, headers=VERSION)
        assert answer.status_code == 200, answer.text
        assert there.seen[-1].body == body.replace(b'"claude"', b'"up-claude"')
        assert answer.json()["content"][0] == {"type": "thinking", "thinking": "Hm, so.", "signature": SIGNATURE}


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_both_ways_of_sending_a_key_work(tmp_path: Path, header: str) -> None:
    """A bearer and `x-api-key` are the same, on every route; a wrong key is refused in Anthropic's format."""
    async with acted(tmp_path) as there:
        made = await asyncio.to_thread(there.router.store.create_key, "alice")
        await there.router.refresh()
        client = there.router.client

        def headers(key: str) -> dict[str, str]:
            return {header: key if header == "x-api-key" else f"Bearer {key}", **VERSION}

        body = {"model": "claude", "max_tokens": 5, "messages": HI}
        refused = await client.post("/v1/messages", json=body, headers=headers("wrong"))
        assert refused.status_code == 401
        assert refused.json()["type"] == "error"
        assert refused.json()["error"]["type"] == "authentication_error"
        assert there.seen == []
        assert (await client.post("/v1/messages", json=body, headers=headers(made.key))).status_code == 200
        assert (await client.post("/v1/messages/count_tokens", json=body, headers=headers(made.key))).status_code == 200
        assert (await client.get("/v1/models", headers=headers(made.key))).status_code == 200
        assert not any(made.key in str(request.headers) for request in there.seen)


async def test_version_and_beta_headers_are_the_clients(tmp_path: Path) -> None:
    """Whatever version and betas a client names reach the backend; its key does not."""
    async with speaking(tmp_path) as (there, client):
        betas = ["claude-code-20250219", "never-heard-of-2031-01-01"]
        await client.beta.messages.create(
            model="claude", max_tokens=5, messages=HI, betas=betas, extra_headers={"anthropic-version": "2031-01-01"}
        )
        sent = there.seen[-1].headers
        assert sent["anthropic-version"] == "2031-01-01"
        assert sent["anthropic-beta"] == ",".join(betas)
        assert CLIENT_KEY not in str(sent)


async def test_missing_version_is_supplied(tmp_path: Path) -> None:
    """A client without `anthropic-version` is served: the backend needs one."""
    async with acted(tmp_path) as there:
        body = {"model": "claude", "max_tokens": 5, "messages": HI}
        assert (await there.router.client.post("/v1/messages", json=body)).status_code == 200
        assert there.seen[-1].headers["anthropic-version"]


@BOTH
async def test_message_events_are_well_formed(tmp_path: Path, model: str) -> None:
    """Each event's name is its type, blocks begin and end in order, no `[DONE]`."""
    async with acted(tmp_path) as there:
        body = {"model": model, "max_tokens": 50, "messages": HI, "stream": True}
        answer = await there.router.client.post("/v1/messages", json=body, headers=VERSION)
        found = []
        for block in answer.text.strip("\n").split("\n\n"):
            if block.startswith(":"):
                continue
            name, data = block.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
        kinds = [item["type"] for item in found if item["type"] != "ping"]
        assert kinds[:2] == ["message_start", "content_block_start"]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        text = "".join(item["delta"]["text"] for item in found if item["type"] == "content_block_delta")
        assert text == TEXT
        assert found[kinds.index("message_start")]["message"]["content"] == []
        assert "[DONE]" not in answer.text


@BOTH
async def test_message_tools_go_both_ways(tmp_path: Path, model: str) -> None:
    """A call, its streamed twin, and the turn with the result, by its id."""
    asked: Any = [{"role": "user", "content": "the weather"}]
    async with speaking(tmp_path) as (there, client):
        options: Any = {"model": model, "max_tokens": 50, "tools": [WEATHER]}
        answer = await client.messages.create(**options, messages=asked)
        use: Any = answer.content[-1]
        assert (answer.stop_reason, use.type, use.name, use.input) == (
            "tool_use",
            "tool_use",
            "weather",
            {"city": CITY},
        )
        async with client.messages.stream(**options, messages=asked) as streaming:
            final = await streaming.get_final_message()
        assert final.content[-1].to_dict()["input"] == {"city": CITY}
        turns: Any = [
            *asked,
            {"role": "assistant", "content": [block.to_dict() for block in answer.content]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sun ☀"}]},
        ]
        then: Any = await client.messages.create(**options, messages=turns)
        assert then.content[-1].text == "The tool said: sun ☀"
        if model == "m":
            *_, replayed, result = there.seen[-1].json["messages"]
            assert replayed["tool_calls"][0]["id"] == result["tool_call_id"]
            assert json.loads(replayed["tool_calls"][0]["function"]["arguments"]) == {"city": CITY}


async def test_thinking_keeps_its_signature(tmp_path: Path) -> None:
    """Streamed too, and in the next turn's request."""
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    async with speaking(tmp_path) as (there, client):
        async with client.messages.stream(model="claude", max_tokens=2000, messages=HI, thinking=thinking) as streaming:
            final = await streaming.get_final_message()
        block: Any = final.content[0]
        assert (block.type, block.thinking, block.signature) == ("thinking", "Hm, so.", SIGNATURE)
        turns: Any = [*HI, {"role": "assistant", "content": [item.to_dict() for item in final.content]}, *HI]
        await client.messages.create(model="claude", max_tokens=2000, messages=turns, thinking=thinking)
        assert there.seen[-1].json["messages"][1]["content"][0]["signature"] == SIGNATURE


async def test_tokens_are_counted(tmp_path: Path) -> None:
    """By the backend, without `max_tokens`, and with fields that nobody knows."""
    async with speaking(tmp_path) as (there, client):
        counted = await client.messages.count_tokens(model="claude", messages=HI, extra_body={"odd": 1})
        assert counted.input_tokens == 2095
        assert there.seen[-1].path.startswith("/v1/messages/count_tokens")
        assert there.seen[-1].json == {"model": "up-claude", "messages": HI, "odd": 1}


STATUSES = {
    400: "invalid_request_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


@BOTH
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("stream", [False, True])
async def test_message_errors_are_anthropics(tmp_path: Path, model: str, status: int, stream: bool) -> None:
    """Type, status and `request-id`, whatever dialect the backend told its error in."""
    async with speaking(tmp_path) as (_, client):
        asked: Any = [{"role": "user", "content": f"fail with {status}"}]
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(model=model, max_tokens=5, messages=asked, stream=stream)
        error: Any = caught.value.body
        assert caught.value.status_code == status
        assert (error["type"], error["error"]["type"]) == ("error", STATUSES[status])


@BOTH
async def test_message_answers_name_their_request(tmp_path: Path, model: str) -> None:
    """`request-id`, which Anthropic's SDK reads, is ours, on answers, streams and errors."""
    async with speaking(tmp_path) as (_, client):
        answer = await client.messages.create(model=model, max_tokens=50, messages=HI)
        assert str(answer._request_id).startswith("req_")
        assert answer._request_id != "req_of_the_upstream"
        async with client.messages.stream(model=model, max_tokens=50, messages=HI) as streaming:
            assert str(streaming.request_id).startswith("req_")
        with pytest.raises(anthropic.BadRequestError) as caught:
            failing: Any = [{"role": "user", "content": "fail with 400"}]
            await client.messages.create(model=model, max_tokens=5, messages=failing)
        assert str(caught.value.request_id).startswith("req_")


async def test_overload_stays_529(tmp_path: Path) -> None:
    """Claude Code waits on 529 and not on others."""
    async with speaking(tmp_path) as (_, client):
        with pytest.raises(anthropic.APIStatusError) as caught:
            asked: Any = [{"role": "user", "content": "fail with 529"}]
            await client.messages.create(model="claude", max_tokens=5, messages=asked)
        error: Any = caught.value.body
        assert (caught.value.status_code, error["error"]["type"]) == (529, "overloaded_error")


@BOTH
async def test_bad_messages_are_a_400(tmp_path: Path, model: str) -> None:
    """Bad JSON, and a model that nobody has, in Anthropic's format."""
    async with acted(tmp_path) as there:
        client = there.router.client
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            for body in (b"", b"{", b"[]", b"{}", b'{"model": "m", "messages": 3, "max_tokens": 1}'):
                answer = await client.post(path, content=body.replace(b'"m"', f'"{model}"'.encode()))
                assert answer.status_code == 400, (path, body)
                assert answer.json()["type"] == "error"
                assert answer.json()["error"]["type"] == "invalid_request_error"
            unknown = await client.post(path, json={"model": "nobody", "max_tokens": 5, "messages": HI})
            assert unknown.status_code == 404
            assert unknown.json()["error"]["type"] == "not_found_error"


@BOTH
async def test_broken_message_stream_ends_with_an_error_event(tmp_path: Path, model: str) -> None:
    """The SDK raises; there is no `message_stop`."""
    async with speaking(tmp_path) as (there, client):
        asked: Any = [{"role": "user", "content": "break off"}]
        text = ""
        with pytest.raises(anthropic.APIError):
            async with client.messages.stream(model=model, max_tokens=5, messages=asked) as streaming:
                async for piece in streaming.text_stream:
                    text += piece
        assert text == TEXT[:5]
        body = {"model": model, "max_tokens": 5, "messages": asked, "stream": True}
        answer = await there.router.client.post("/v1/messages", json=body, headers=VERSION)
        last = answer.text.strip("\n").split("\n\n")[-1]
        assert last.startswith("event: error\ndata: ")
        assert json.loads(last.split("data: ", 1)[1])["type"] == "error"
        assert "message_stop" not in answer.text


async def test_openai_clients_are_served_by_anthropic_backends(tmp_path: Path) -> None:
    """Text, stream, tools and errors through the OpenAI SDK, with what was changed told in a header."""
    async with acted(tmp_path) as there:
        system: Any = [{"role": "system", "content": "Be kind."}, *HI]
        reply = await there.openai.chat.completions.with_raw_response.create(
            model="claude", messages=system, temperature=0.5, stop=["x"], seed=7
        )
        answer = reply.parse()
        assert answer.choices[0].message.content == TEXT
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 5)
        sent = there.seen[-1].json
        assert there.seen[-1].path == "/v1/messages"
        assert "Be kind." in json.dumps(sent["system"])
        assert (sent["temperature"], sent["stop_sequences"]) == (0.5, ["x"])
        assert sent["max_tokens"] > 0
        assert "seed" in reply.headers["x-router-changes"]
        chunks = await there.stream(model="claude", stream_options={"include_usage": True})
        assert "".join(part.choices[0].delta.content or "" for part in chunks if part.choices) == TEXT
        assert chunks[-1].usage.total_tokens == 16
        tool: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER["input_schema"]}}
        called = await there.ask(model="claude", messages=[{"role": "user", "content": "the weather"}], tools=[tool])
        assert json.loads(called.choices[0].message.tool_calls[0].function.arguments) == {"city": CITY}
        assert called.choices[0].finish_reason == "tool_calls"
