"""The agent's dialect on a live router: any `/infer` server serves chat clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.router.api.test_chat import assert_openai_error
from tests.support.router import LiveRouter, live_router
from tests.support.upstream import Script, ScriptedReply, SeenRequest, scripted_upstream

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
]


def manifest(url: str, capabilities: str) -> str:
    """Return a manifest with one agent."""
    return f"""
backends:
  - {{name: mac, dialect: local_agent, base_url: "{url}", tier: local}}
models:
  - id: m
    capabilities: {capabilities}
    deployments: [{{backend: mac, upstream_model: theirs, price: {{input: 0, output: 0}}}}]
"""


def infer(reply_with: dict[str, Any], pieces: list[Any] | None = None) -> Script:
    """Return a script of an agent: a whole answer, or pieces for a stream (a string is sent as it is)."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if request.path != "/infer":
            await reply.json({"error": "no such route"}, 404)
        elif not request.json["stream"]:
            await reply.json(reply_with)
        else:
            await reply.start_stream()
            for piece in pieces or []:
                await reply.event(piece)
            await reply.end_stream()

    return script


def asked(upstream: Any) -> list[SeenRequest]:
    """Return what reached `/infer`; the router also looks for the agent's list of models."""
    return [request for request in upstream.requests if request.path == "/infer"]


async def test_plain_agent_gets_the_documented_payload_alone(tmp_path: Path) -> None:
    """A server that does not take messages gets the four documented fields, the turns in order."""
    async with scripted_upstream(infer({"text": "2"})) as upstream:
        url = upstream.url.removesuffix("/v1")
        async with live_router(tmp_path, manifest(url, "[chat]")) as router:
            answer = await router.chat(messages=CONVERSATION, stop=["x"], seed=1, max_tokens=9, temperature=0.5)
            assert answer.status_code == 200, answer.text
            payload = asked(upstream)[0].json
    assert set(payload) == {"prompt", "max_tokens", "temperature", "stream"}
    assert (payload["max_tokens"], payload["temperature"], payload["stream"]) == (9, 0.5, False)
    places = [payload["prompt"].index(text) for text in ("Be brief.", "One?", "1", "Two?")]
    assert places == sorted(places)
    whole = answer.json()
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "2", "refusal": None}
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["model"] == "theirs"
    assert whole["usage"]["total_tokens"] > 0


async def test_plain_agent_gets_the_documented_defaults(tmp_path: Path) -> None:
    """What the client leaves out is sent with the documented default."""
    async with scripted_upstream(infer({"text": "x"})) as upstream:
        async with live_router(tmp_path, manifest(upstream.url.removesuffix("/v1"), "[chat]")) as router:
            await router.chat("Just this.")
            payload = asked(upstream)[0].json
    assert payload == {"prompt": "Just this.", "max_tokens": 512, "temperature": 0.7, "stream": False}


async def test_messages_agent_gets_messages_and_options(tmp_path: Path) -> None:
    """An agent that takes messages gets them as they are, with the options it documents."""
    async with scripted_upstream(infer({"text": "2", "model": "real-name"})) as upstream:
        url = upstream.url.removesuffix("/v1")
        async with live_router(tmp_path, manifest(url, "[chat, messages]")) as router:
            answer = await router.chat(messages=CONVERSATION, stop=["x"], seed=7, top_p=0.9, temperature=0)
            payload = asked(upstream)[0].json
    assert payload["messages"] == CONVERSATION
    assert (payload["stop"], payload["seed"], payload["top_p"], payload["model"]) == (["x"], 7, 0.9, "theirs")
    assert "prompt" not in payload
    assert answer.json()["model"] == "real-name"


async def stream_of(router: LiveRouter, **body: Any) -> tuple[str, list[dict[str, Any]]]:
    """Return the text of a stream and its events."""
    answer = await router.chat(stream=True, **body)
    assert answer.status_code == 200, answer.text
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    text = "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e.get("choices"))
    return text, events


async def test_stream_becomes_chat_chunks(tmp_path: Path) -> None:
    """Pieces become chunks: the role first, one id, the finish reason once, usage as reported."""
    done = {"text": "", "done": True, "finish_reason": "length", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    pieces = [{"text": "Hel"}, {"text": "lo"}, done, "[DONE]"]
    async with scripted_upstream(infer({}, pieces)) as upstream:
        async with live_router(tmp_path, manifest(upstream.url.removesuffix("/v1"), "[chat]")) as router:
            text, events = await stream_of(router, stream_options={"include_usage": True})
    assert text == "Hello"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len({event["id"] for event in events}) == 1
    assert [e["choices"][0]["finish_reason"] for e in events if e["choices"]][-1] == "length"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["prompt_tokens"] == 3


async def test_stream_of_text_alone_is_enough(tmp_path: Path) -> None:
    """An agent that sends only `text` and the end still gives a whole chat stream."""
    async with scripted_upstream(infer({}, [{"text": "a"}, {"text": "b"}, "[DONE]"])) as upstream:
        async with live_router(tmp_path, manifest(upstream.url.removesuffix("/v1"), "[chat]")) as router:
            text, events = await stream_of(router)
    assert text == "ab"
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


async def test_error_event_is_told_and_not_taken_for_an_end(tmp_path: Path) -> None:
    """An error in the stream ends it with one error event; before any text it is a plain failure."""
    failed = {
        "error": {"message": "engine restarted", "type": "server_error", "param": None, "code": "engine_restarted"}
    }
    async with scripted_upstream(infer({}, [{"text": "half"}, failed])) as upstream:
        async with live_router(tmp_path, manifest(upstream.url.removesuffix("/v1"), "[chat]")) as router:
            text, events = await stream_of(router)
            assert text == "half"
            assert events[-1]["error"]["code"] == "stream_interrupted"
            upstream.script = infer({}, [failed])
            refused = await router.chat(stream=True)
            assert refused.status_code == 502
            assert_openai_error(refused, "upstream_unavailable")


async def test_stream_without_an_end_is_an_interruption(tmp_path: Path) -> None:
    """A stream that stops before it is done is never taken for a whole answer."""
    async with scripted_upstream(infer({}, [{"text": "half"}])) as upstream:
        async with live_router(tmp_path, manifest(upstream.url.removesuffix("/v1"), "[chat]")) as router:
            _, events = await stream_of(router)
    assert events[-1]["error"]["code"] == "stream_interrupted"


async def test_agent_is_no_candidate_for_what_it_cannot_do(tmp_path: Path) -> None:
    """Tools, images and several choices never reach an agent; the refusal names what is missing."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    async with scripted_upstream(infer({"text": "x"})) as upstream:
        async with live_router(tmp_path, manifest(upstream.url.removesuffix("/v1"), "[chat]")) as router:
            wanted: list[tuple[dict[str, Any], str]] = [
                ({"tools": tools}, "tools"),
                ({"messages": image}, "vision"),
                ({"n": 2}, "one choice"),
            ]
            for body, word in wanted:
                refused = await router.chat(**body)
                assert refused.status_code == 400
                assert word in assert_openai_error(refused, "no_candidate")["message"]
            assert asked(upstream) == []


async def test_full_agent_is_told_as_full_and_stays_a_candidate(tmp_path: Path) -> None:
    """A full queue is a 503 with its wait, and however often it is told, the next request is sent."""
    full = {"error": {"message": "32 requests are waiting.", "type": "server_error", "code": "overloaded"}}

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json(full, 503, {"retry-after": "7"})

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest(upstream.url.removesuffix("/v1"), "[chat]")) as router:
            for _ in range(8):
                refused = await router.chat()
                assert refused.status_code == 503
                assert refused.headers["retry-after"] == "7"
                assert "waiting" in assert_openai_error(refused, "overloaded")["message"]
            upstream.script = infer({"text": "room again"})
            assert (await router.chat()).status_code == 200
