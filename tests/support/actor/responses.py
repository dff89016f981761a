"""The actor's `/responses`, as OpenAI writes them: items, events with names and sequence numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.support.actor.chat import text_of
from tests.support.actor.mind import Thought, asks_for_tools, pieces, think
from tests.support.upstream import ScriptedReply

USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 16,
}


def _thought(asked: Mapping[str, Any]) -> Thought:
    items = asked["input"]
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    prompt = next((text_of(item["content"]) for item in reversed(items) if item.get("role") == "user"), "")
    last = items[-1]
    result = (
        text_of(last["output"]) if last.get("type") in ("function_call_output", "custom_tool_call_output") else None
    )
    tools = [
        (tool["name"], tool.get("parameters") or {}) for tool in asked.get("tools") or () if tool["type"] == "function"
    ]
    if not asks_for_tools(prompt) and asked.get("tool_choice") != "required":
        tools = []
    schema = ((asked.get("text") or {}).get("format") or {}).get("schema")
    return think(prompt, tools, None, result, schema)


def _items(thought: Thought) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if thought.text:
        part = {"type": "output_text", "text": thought.text, "annotations": [], "logprobs": []}
        found.append(
            {"id": "msg_actor", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
        )
    for index, call in enumerate(thought.calls):
        names = {"call_id": call.id, "name": call.name, "arguments": call.written}
        found.append({"id": f"fc_actor{index}", "type": "function_call", "status": "completed", **names})
    return found


def _response(asked: Mapping[str, Any], items: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {
        "id": "resp_actor",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "model": "actor-1",
        "output": items,
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "previous_response_id": asked.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "store": asked.get("store", True),
        "temperature": 1.0,
        "text": asked.get("text") or {"format": {"type": "text"}},
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": USAGE if status == "completed" else None,
        "user": None,
        "metadata": asked.get("metadata") or {},
    }


async def answer_responses(asked: Mapping[str, Any], reply: ScriptedReply) -> Thought:
    """Answer `/responses`."""
    thought = _thought(asked)
    if thought.status != 200:
        return thought
    items = _items(thought)
    if not asked.get("stream"):
        if thought.hangs:
            await asyncio.Event().wait()
        await reply.json(_response(asked, items, "completed"))
        return thought
    number = -1

    async def send(kind: str, **fields: Any) -> None:
        nonlocal number
        number += 1
        await reply.named_event(kind, {"type": kind, "sequence_number": number, **fields})

    await reply.start_stream()
    await send("response.created", response=_response(asked, [], "in_progress"))
    await send("response.in_progress", response=_response(asked, [], "in_progress"))
    await send("response.brand_new_event", novelty={"a": 1})
    for index, item in enumerate(items):
        place = {"item_id": item["id"], "output_index": index}
        if item["type"] == "message":
            await send(
                "response.output_item.added", output_index=index, item={**item, "status": "in_progress", "content": []}
            )
            inner = {**place, "content_index": 0}
            empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            await send("response.content_part.added", **inner, part=empty)
            for piece in pieces(thought.text):
                await send("response.output_text.delta", **inner, delta=piece, logprobs=[])
                if thought.hangs:
                    await asyncio.Event().wait()
                if thought.breaks:
                    await send("error", code="server_error", message="engine died", param=None)
                    await reply.end_stream()
                    return thought
            await send("response.output_text.done", **inner, text=thought.text, logprobs=[])
            await send("response.content_part.done", **inner, part=item["content"][0])
        else:
            begun = {**item, "status": "in_progress", "arguments": ""}
            await send("response.output_item.added", output_index=index, item=begun)
            for piece in pieces(item["arguments"]):
                await send("response.function_call_arguments.delta", **place, delta=piece)
            done = {"arguments": item["arguments"], "name": item["name"]}
            await send("response.function_call_arguments.done", **place, **done)
        await send("response.output_item.done", output_index=index, item=item)
    await send("response.completed", response=_response(asked, items, "completed"))
    await reply.end_stream()
    return thought
