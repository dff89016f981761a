"""`/v1/responses` on a live router, carried over chat."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from shared.sse import SSEReader
from tests.router.api.responses_served import (
    CODEX,
    calling,
    events_of,
    serving,
)
from tests.router.api.test_chat import assert_openai_error
from tests.support.router import live_router, manifest_for
from tests.support.upstream import (
    ScriptedReply,
    SeenRequest,
    chunk,
    completion,
    fail,
    say,
    scripted_upstream,
)


async def test_bridged_response_through_the_sdk(tmp_path: Path) -> None:
    """The SDK gets a whole response with text, usage and ids, out of a chat completion."""
    async with serving(tmp_path, say("Hello there.")) as served:
        answer = await served.client.responses.create(model="m", input="Hi", instructions="Be kind.", temperature=0.5)
        assert answer.output_text == "Hello there."
        assert (answer.status, answer.object, answer.model) == ("completed", "response", "upstream-model")
        assert answer.id.startswith("resp_")
        assert answer.output[0].id is not None
        assert answer.output[0].id.startswith("msg_")
        assert answer.usage is not None
        assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (7, 5, 12)
        assert (answer.instructions, answer.temperature, answer.store) == ("Be kind.", 0.5, True)  # type: ignore[attr-defined]
        seen = served.seen()
        assert served.upstream.requests[0].path == "/v1/chat/completions"
        assert seen == {
            "model": "up-0",
            "temperature": 0.5,
            "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        }


async def test_bridged_stream_through_the_sdk(tmp_path: Path) -> None:
    """The SDK's own stream reader assembles the events into the response that the last one holds."""
    async with serving(tmp_path, say("one two three")) as served:
        async with served.client.responses.stream(model="m", input="Hi") as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert final.output_text == "one two three"
        assert kinds[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[-4:] == [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        raw = await served.post({"model": "m", "input": "Hi", "stream": True})
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert b"[DONE]" not in raw.content
        assert events_of(raw.content)[-1]["response"]["usage"]["total_tokens"] == 12


class Pair(BaseModel):
    """A structured answer."""

    left: int
    right: str


async def test_bridged_parse_asks_for_the_schema(tmp_path: Path) -> None:
    """`.parse` sends a schema, which reaches the backend as chat has it, and reads the answer."""
    async with serving(tmp_path, say('{"left": 1, "right": "b"}')) as served:
        answer = await served.client.responses.parse(model="m", input="Hi", text_format=Pair)
        assert answer.output_parsed == Pair(left=1, right="b")
        form = served.seen()["response_format"]
        assert form["type"] == "json_schema"
        assert form["json_schema"]["name"] == "Pair"
        assert form["json_schema"]["strict"] is True
        assert set(form["json_schema"]["schema"]["properties"]) == {"left", "right"}


@pytest.mark.parametrize("stream", [False, True])
async def test_bridged_tools_there_and_back(tmp_path: Path, stream: bool) -> None:
    """Parallel calls become items, and their outputs reach the backend as tool messages behind the calls."""
    script = calling(("weather", '{"city": "Oslo"}'), ("patch", '{"input": "*** a\\nb"}'), text="Let me see.")
    tools: list[Any] = [
        {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True},
        {"type": "custom", "name": "patch"},
    ]
    async with serving(tmp_path, script) as served:
        body = {"model": "m", "input": "Weather?", "tools": tools, "stream": stream, "store": False}
        answer = await served.post(body)
        response = events_of(answer.content)[-1]["response"] if stream else answer.json()
        said, called, free = response["output"]
        assert said["content"][0]["text"] == "Let me see."
        assert (called["type"], called["call_id"], called["arguments"]) == (
            "function_call",
            "call_0",
            '{"city": "Oslo"}',
        )
        assert (free["type"], free["input"]) == ("custom_tool_call", "*** a\nb")
        outputs = [
            {"type": "function_call_output", "call_id": "call_0", "output": "rain"},
            {"type": "custom_tool_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "ok"}]},
        ]
        served.upstream.script = say("Rain.")
        history = [{"role": "user", "content": "Weather?"}, *response["output"], *outputs]
        assert (await served.post({**body, "input": history})).status_code == 200
        user, assistant, *results = served.seen()["messages"]
        assert user == {"role": "user", "content": "Weather?"}
        assert assistant["content"] == "Let me see."
        assert [call["function"]["name"] for call in assistant["tool_calls"]] == ["weather", "patch"]
        assert json.loads(assistant["tool_calls"][1]["function"]["arguments"]) == {"input": "*** a\nb"}
        assert results == [
            {"role": "tool", "tool_call_id": "call_0", "content": "rain"},
            {"role": "tool", "tool_call_id": "call_1", "content": "ok"},
        ]


async def test_bridged_codex_request(tmp_path: Path) -> None:
    """What Codex sends works over chat: items with their ends, and a header that tells what chat has no place for."""
    script = calling(("shell", '{"command": ["ls"]}'), ("apply_patch", '{"input": "*** Begin"}'))
    async with serving(tmp_path, script) as served:
        answer = await served.post(CODEX, **{"x-codex-turn-metadata": "{}"})
        events = events_of(answer.content)
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert [item["type"] for item in done] == ["function_call", "custom_tool_call"]
        assert events[-1]["type"] == "response.completed"
        assert events[-1]["response"]["output"] == done
        changes = answer.headers["x-router-changes"]
        for change in (
            "tools[3] web_search dropped",
            "client_metadata dropped",
            "reasoning.summary dropped",
            "input role developer set to system",
        ):
            assert change in changes
        seen = served.seen()
        assert (seen["prompt_cache_key"], seen["parallel_tool_calls"], seen["tool_choice"]) == (
            "thread-1",
            False,
            "auto",
        )
        assert [message["role"] for message in seen["messages"]] == ["system", "system", "user"]


async def test_bridged_incomplete_answer(tmp_path: Path) -> None:
    """An answer that was cut by its limit is incomplete, and says why."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        whole = completion("Once upon")
        whole["choices"][0]["finish_reason"] = "length"
        await reply.json(whole)

    async with serving(tmp_path, script) as served:
        answer = await served.client.responses.create(model="m", input="Tell", max_output_tokens=2)
        assert answer.status == "incomplete"
        assert answer.incomplete_details is not None
        assert answer.incomplete_details.reason == "max_output_tokens"
        assert served.seen()["max_tokens"] == 2


async def test_errors_are_openais(tmp_path: Path) -> None:
    """Malformed requests, and failures of backends, are told as OpenAI tells them."""
    async with serving(tmp_path, fail(400)) as served:
        bad: list[tuple[dict[str, Any], str, str | None]] = [
            ({"model": "m"}, "invalid_request", "input"),
            ({"model": "m", "input": 3}, "invalid_request", "input"),
            ({"model": "m", "input": [{"role": "user"}]}, "invalid_request", "input[0].content"),
            ({"model": "m", "input": [{"type": "item_reference", "id": "msg_x"}]}, "invalid_request", "input"),
            ({"model": "m", "input": "x", "previous_response_id": "resp_x"}, "previous_response_not_found", None),
        ]
        for body, code, param in bad:
            refused = await served.post(body)
            assert refused.status_code == 400, body
            assert_openai_error(refused, code, param or "previous_response_id")
        hosted = await served.post({"model": "m", "input": "x", "tools": [{"type": "web_search"}]})
        assert hosted.status_code == 400
        assert_openai_error(hosted, "no_candidate")
        assert served.upstream.requests == []
        assert (await served.post({"model": "m", "input": "x"})).status_code == 400
        assert (await served.router.client.get("/v1/responses")).status_code == 405


async def test_broken_stream_goes_on_elsewhere(tmp_path: Path) -> None:
    """A stream that breaks and is continued by another backend is one response to the client."""

    async def broken(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"role": "assistant", "content": "one two"}))
        reply.cut()

    async with scripted_upstream(broken) as bad, scripted_upstream(say("one two three")) as good:
        async with live_router(tmp_path, manifest_for(bad.url, good.url)) as router:
            answer = await router.client.post("/v1/responses", json={"model": "m", "input": "Hi", "stream": True})
    events = events_of(answer.content)
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "one two three"
    assert "".join(event["delta"] for event in events if event["type"].endswith(".delta")) == "one two three"


async def test_broken_stream_ends_in_an_error_event(tmp_path: Path) -> None:
    """A stream that breaks ends in one event that the SDK raises, and never in a clean end."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"role": "assistant", "content": "a"}))
        reply.cut()

    async with serving(tmp_path, script) as served:
        raw = await served.post({"model": "m", "input": "Hi", "stream": True})
        last = SSEReader().feed(raw.content)[-1]
        assert last.event == "error"
        told = json.loads(last.data or b"")
        assert (told["type"], told["code"]) == ("error", "stream_interrupted")
        assert b"response.completed" not in raw.content
        with pytest.raises(openai.APIError):
            async for _ in await served.client.responses.create(model="m", input="Hi", stream=True):
                pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("native", [False, True])
async def test_client_that_leaves_closes_the_upstream(tmp_path: Path, stream: bool, native: bool) -> None:
    """Whoever leaves, before the answer or in its middle, takes the backend's work along."""
    started = asyncio.Event()

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if stream:
            await reply.start_stream()
            delta = {"type": "response.output_text.delta", "delta": "a"}
            await reply.event(delta if native else chunk({"content": "a"}))
        started.set()
        await request.closed_early.wait()

    async with serving(tmp_path, script, native=native) as served:
        asking = asyncio.ensure_future(served.post({"model": "m", "input": "Hi", "stream": stream}))
        await started.wait()
        asking.cancel()
        await asyncio.wait_for(served.upstream.requests[0].closed_early.wait(), 10)
