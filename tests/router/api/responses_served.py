"""A router in front of backends with and without the Responses API, for the tests of these routes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai

from shared.sse import SSEReader
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import (
    Script,
    ScriptedReply,
    ScriptedUpstream,
    SeenRequest,
    chunk,
    completion,
    scripted_upstream,
)

NATIVE = "    capabilities: [chat, responses, tools]\n"
CODEX: dict[str, Any] = {
    "model": "m",
    "instructions": "You are a coding agent.",
    "input": [
        {"type": "message", "id": "msg_1", "role": "developer", "content": [{"type": "input_text", "text": "sandbox"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Fix it"}]},
    ],
    "tools": [
        {"type": "function", "name": "shell", "parameters": {"type": "object", "properties": {}}, "strict": False},
        {
            "type": "custom",
            "name": "apply_patch",
            "description": "A patch.",
            "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*"'},
        },
        {
            "type": "namespace",
            "name": "agents",
            "description": "More",
            "tools": [{"type": "function", "name": "spawn"}],
        },
        {"type": "web_search", "external_web_access": True},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "thread-1",
    "client_metadata": {"x-codex": "1"},
}


def native_manifest(*urls: str) -> str:
    """Return a manifest whose model is served by backends with the Responses API."""
    manifest = manifest_for(*urls)
    return manifest.replace("    deployments:\n", NATIVE + "    deployments:\n")


@asynccontextmanager
async def serving(tmp_path: Path, script: Script, *, native: bool = False) -> AsyncIterator[Served]:
    """Run a router in front of one scripted upstream, with the SDK as its client."""
    async with scripted_upstream(script) as upstream:
        manifest = native_manifest(upstream.url) if native else manifest_for(upstream.url)
        async with live_router(tmp_path, manifest) as router:
            client = openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0)
            async with client:
                yield Served(router, upstream, client)


class Served:
    """What a test talks to."""

    def __init__(self, router: LiveRouter, upstream: ScriptedUpstream, client: openai.AsyncOpenAI) -> None:
        self.router = router
        self.upstream = upstream
        self.client = client

    async def post(self, body: dict[str, Any], **headers: str) -> httpx.Response:
        """Send one request as it is."""
        return await self.router.client.post("/v1/responses", json=body, headers=headers)

    def seen(self, index: int = -1) -> Any:
        """The body of a request that the upstream got."""
        return self.upstream.requests[index].json


def events_of(raw: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each under its own name and in sequence."""
    read = SSEReader().feed(raw)
    events = [json.loads(event.data) for event in read if event.data is not None]
    assert [event.event for event in read if event.data is not None] == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def calling(*calls: tuple[str, str], text: str | None = None) -> Script:
    """Return a script that calls tools, streamed in pieces or whole."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        made = [
            {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for index, (name, arguments) in enumerate(calls)
        ]
        if not request.json.get("stream"):
            whole = completion(text or "")
            whole["choices"][0]["message"] |= {"content": text, "tool_calls": made}
            whole["choices"][0]["finish_reason"] = "tool_calls"
            await reply.json(whole)
            return
        await reply.start_stream()
        await reply.event(chunk({"role": "assistant", "content": text}))
        for index, call in enumerate(made):
            arguments = calls[index][1]
            head = {"index": index, **call, "function": {"name": calls[index][0], "arguments": ""}}
            await reply.event(chunk({"tool_calls": [head]}))
            for piece in (arguments[:3], arguments[3:]):
                await reply.event(chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}))
        await reply.event(chunk({}, "tool_calls"))
        await reply.event(chunk(None, usage={"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}))
        await reply.event("[DONE]")
        await reply.end_stream()

    return script


def response(name: str, *output: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """A response as a backend writes it."""
    usage = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13, "input_tokens_details": {"cached_tokens": 2}}
    return {
        "id": name,
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "model": "upstream-model",
        "output": list(output),
        "usage": usage,
        "unknown_field": {"kept": True},
        **extra,
    }


def spoken(text: str) -> dict[str, Any]:
    """A message as a backend writes it."""
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": "msg_up", "role": "assistant", "status": "completed", "content": [part]}


def thought(sealed: str) -> dict[str, Any]:
    """Reasoning that only its maker can read."""
    return {"type": "reasoning", "id": f"rs_{sealed}", "summary": [], "encrypted_content": sealed}


def natively(name: str, *output: dict[str, Any]) -> Script:
    """Return a script that speaks the Responses API."""
    whole = response(name, *output)

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        assert request.path == "/v1/responses"
        if not request.json.get("stream"):
            await reply.json(whole)
            return
        await reply.start_stream()
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}},
            {"type": "response.strange_news", "news": 1},
        ]
        for index, item in enumerate(output):
            events.append({"type": "response.output_item.added", "output_index": index, "item": item})
            events.append({"type": "response.output_item.done", "output_index": index, "item": item})
        events.append({"type": "response.completed", "response": whole})
        for number, event in enumerate(events):
            data = json.dumps({**event, "sequence_number": number})
            await reply.send(f"event: {event['type']}\ndata: {data}\n\n".encode())
        await reply.end_stream()

    return script
