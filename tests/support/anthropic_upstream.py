"""Scripts of an upstream that speaks Anthropic Messages, for `scripted_upstream`."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.support.upstream import Script, ScriptedReply, SeenRequest

USAGE = {"input_tokens": 4, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 1, "output_tokens": 5}
Event = dict[str, Any]


def manifest_for(url: str, models: str = "m", facts: str = "", **backend: Any) -> str:
    """Return a manifest with one Anthropic backend that serves one model."""
    more = "".join(f", {key}: {value}" for key, value in backend.items())
    return f"""
backends:
  - {{name: claude, dialect: anthropic, base_url: "{url}", tier: external{more}}}
models:
  - id: {models}
{facts}    deployments: [{{backend: claude, upstream_model: claude-up, price: {{input: 1, output: 2}}}}]
"""


def text(value: str) -> Event:
    """Return a block of text."""
    return {"type": "text", "text": value}


def thinking(value: str, signature: str = "c2ln") -> Event:
    """Return a block of thinking."""
    return {"type": "thinking", "thinking": value, "signature": signature}


def tool(name: str, arguments: Any, id: str = "toolu_1") -> Event:  # noqa: A002
    """Return a call of a tool."""
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def message(*blocks: Event, stop: str = "end_turn", **extra: Any) -> Event:
    """Return a message as the API writes it."""
    head = {"id": "msg_script", "type": "message", "role": "assistant", "model": "claude-real"}
    return {**head, "content": list(blocks), "stop_reason": stop, "stop_sequence": None, "usage": USAGE, **extra}


def events(*blocks: Event, stop: str = "end_turn") -> list[Event]:
    """Return the events that stream a message."""
    begun = {**message(), "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
    told: list[Event] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for index, block in enumerate(blocks):
        empty, deltas = _pieces(block)
        told.append({"type": "content_block_start", "index": index, "content_block": empty})
        told += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        told.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": stop, "stop_sequence": None}
    return [*told, {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 5}}, {"type": "message_stop"}]


def _pieces(block: Event) -> tuple[Event, list[Event]]:
    """Return a block as it begins, and what comes of it later."""
    kind = block["type"]
    if kind == "text":
        words = re.findall(r"^\S*| \S*", block["text"])
        return {**block, "text": ""}, [{"type": "text_delta", "text": word} for word in words]
    if kind == "thinking":
        thoughts: list[Event] = [{"type": "thinking_delta", "thinking": part} for part in _halves(block["thinking"])]
        thoughts.append({"type": "signature_delta", "signature": block["signature"]})
        return {**block, "thinking": "", "signature": ""}, thoughts
    if kind == "tool_use":
        parts = ["", *_halves(json.dumps(block["input"]))] if block["input"] else [""]
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]
    return block, []


def _halves(value: str) -> list[str]:
    middle = len(value) // 2
    return [value[:middle], value[middle:]]


def written(*told: Event) -> bytes:
    """Return events as they go over the wire."""
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in told)


def answer(*blocks: Event, stop: str = "end_turn") -> Script:
    """Return a script that answers with blocks, streamed or whole, and counts every prompt as 42 tokens."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if "/count_tokens" in request.path:
            await reply.json({"input_tokens": 42})
        elif request.json.get("stream"):
            await play(reply, *events(*blocks, stop=stop))
            await reply.end_stream()
        else:
            await reply.json(message(*blocks, stop=stop))

    return script


async def play(reply: ScriptedReply, *told: Event) -> None:
    """Begin a stream and send events."""
    await reply.start_stream()
    for event in told:
        await reply.send(written(event))


def say(value: str) -> Script:
    """Return a script that answers with a text."""
    return answer(text(value))


def stream(*told: Event) -> Script:
    """Return a script that sends these events and no more."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await play(reply, *told)
        await reply.end_stream()

    return script


def error(kind: str, words: str = "scripted") -> Event:
    """Return Anthropic's error object."""
    return {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_script"}


def refuse(status: int, kind: str, words: str = "scripted", headers: dict[str, str] | None = None) -> Script:
    """Return a script that answers every request with an error."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json(error(kind, words), status, headers)

    return script
