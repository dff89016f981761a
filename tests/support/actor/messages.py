"""The actor's `/messages` and `/messages/count_tokens`, as Anthropic writes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from tests.support.actor.chat import text_of
from tests.support.actor.mind import Thought, asks_for_tools, pieces, think
from tests.support.upstream import ScriptedReply

SIGNATURE = "EqQBCgIYAhIkNzE4+/actor=="


def _thought(asked: Mapping[str, Any]) -> Thought:
    messages = asked["messages"]
    prompt = next((text_of(item["content"]) for item in reversed(messages) if item["role"] == "user"), "")
    last = messages[-1]["content"]
    results = [block for block in last if block.get("type") == "tool_result"] if isinstance(last, list) else []
    result = text_of(results[-1].get("content")) if results else None
    tools = [(tool["name"], tool["input_schema"]) for tool in asked.get("tools") or () if "input_schema" in tool]
    choice = asked.get("tool_choice") or {}
    if not choice and not asks_for_tools(prompt):
        tools = []
    schema = ((asked.get("output_config") or {}).get("format") or {}).get("schema")
    return think(prompt, tools, choice.get("name"), result, schema)


def _blocks(asked: Mapping[str, Any], thought: Thought) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if (asked.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
        found.append({"type": "thinking", "thinking": "Hm, so.", "signature": SIGNATURE})
    if thought.text:
        found.append({"type": "text", "text": thought.text})
    return found + [
        {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": call.arguments}
        for call in thought.calls
    ]


def _message(blocks: list[dict[str, Any]], stop: str | None, output_tokens: int) -> dict[str, Any]:
    return {
        "id": "msg_actor",
        "type": "message",
        "role": "assistant",
        "model": "actor-claude",
        "content": blocks,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": output_tokens,
        },
    }


async def answer_messages(asked: Mapping[str, Any], reply: ScriptedReply) -> Thought:
    """Answer `/messages`."""
    thought = _thought(asked)
    if thought.status != 200:
        return thought
    blocks = _blocks(asked, thought)
    stop = "tool_use" if thought.calls else "end_turn"
    if not asked.get("stream"):
        if thought.hangs:
            await asyncio.Event().wait()
        await reply.json(_message(blocks, stop, 5), headers={"request-id": "req_of_the_upstream"})
        return thought

    async def send(kind: str, **fields: Any) -> None:
        await reply.named_event(kind, {"type": kind, **fields})

    await reply.start_stream()
    await send("message_start", message=_message([], None, 1))
    await send("ping")
    for index, block in enumerate(blocks):
        empty: Any = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}, "tool_use": {"input": {}}}
        await send("content_block_start", index=index, content_block={**block, **empty[block["type"]]})
        for delta in _deltas(block):
            await send("content_block_delta", index=index, delta=delta)
            if thought.hangs and block["type"] == "text":
                await asyncio.Event().wait()
            if thought.breaks and block["type"] == "text":
                await send("error", error={"type": "overloaded_error", "message": "engine died"})
                await reply.end_stream()
                return thought
        await send("content_block_stop", index=index)
    await send("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage={"output_tokens": 5})
    await send("message_stop")
    await reply.end_stream()
    return thought


def _deltas(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    kind = block["type"]
    if kind == "text":
        return [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
    if kind == "thinking":
        thinking = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
        return [*thinking, {"type": "signature_delta", "signature": block["signature"]}]
    written = json.dumps(block["input"], ensure_ascii=False)
    return [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *pieces(written, 3)]]


async def count_tokens(_asked: Mapping[str, Any], reply: ScriptedReply) -> None:
    """Answer `/messages/count_tokens`."""
    await reply.json({"input_tokens": 2095})
