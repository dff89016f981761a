"""The actor's chat completions, legacy completions and embeddings, as OpenAI writes them."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Mapping
from typing import Any

from tests.support.actor.mind import TEXT, Call, Thought, asks_for_tools, pieces, think
from tests.support.upstream import ScriptedReply

USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 5,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
VECTOR = [0.25, -1.5, 3.0]


def text_of(content: Any) -> str:
    """Return the text of a message's content."""
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content or () if isinstance(part, dict))


def _thought(asked: Mapping[str, Any]) -> Thought:
    messages = asked["messages"]
    prompt = next((text_of(item["content"]) for item in reversed(messages) if item["role"] == "user"), "")
    result = text_of(messages[-1]["content"]) if messages[-1]["role"] == "tool" else None
    functions = [tool["function"] for tool in asked.get("tools") or () if tool["type"] == "function"]
    tools = [(item["name"], item.get("parameters") or {}) for item in functions]
    choice = asked.get("tool_choice")
    chosen = choice["function"]["name"] if isinstance(choice, dict) else None
    if chosen is None and choice != "required" and not asks_for_tools(prompt):
        tools = []
    wanted = asked.get("response_format") or {}
    schema = wanted.get("json_schema", {}).get("schema")
    if wanted.get("type") == "json_object":
        schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    return think(prompt, tools, chosen, result, schema)


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.written}}


async def answer_chat(asked: Mapping[str, Any], reply: ScriptedReply) -> Thought:
    """Answer `/chat/completions`."""
    thought = _thought(asked)
    head = {"id": "chatcmpl-actor", "created": 1_700_000_000, "model": "actor-1", "system_fingerprint": "fp_1"}
    if thought.status != 200:
        return thought
    finish = "tool_calls" if thought.calls else "stop"
    if not asked.get("stream"):
        message: dict[str, Any] = {"role": "assistant", "content": thought.text or None, "refusal": None}
        if thought.calls:
            message["tool_calls"] = [_call(call) for call in thought.calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        if thought.hangs:
            await asyncio.Event().wait()
        await reply.json({**head, "object": "chat.completion", "choices": [choice], "usage": USAGE})
        return thought
    usage_asked = (asked.get("stream_options") or {}).get("include_usage")

    async def send(delta: dict[str, Any], reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        rest = {"usage": None} if usage_asked else {}
        await reply.event({**head, "object": "chat.completion.chunk", "choices": [choice], **rest})

    await reply.start_stream()
    await send({"role": "assistant", "content": "" if thought.text else None, "refusal": None})
    for piece in pieces(thought.text) if thought.text else ():
        await send({"content": piece})
        if thought.hangs:
            await asyncio.Event().wait()
        if thought.breaks:
            await reply.event({"error": {"message": "engine died", "type": "server_error", "code": None}})
            await reply.end_stream()
            return thought
    for index, call in enumerate(thought.calls):
        empty = {**_call(call), "index": index, "function": {"name": call.name, "arguments": ""}}
        await send({"tool_calls": [empty]})
        for piece in pieces(call.written, 3):
            await send({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    await send({}, finish)
    if usage_asked:
        await reply.event({**head, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    await reply.event("[DONE]")
    await reply.end_stream()
    return thought


async def answer_completions(asked: Mapping[str, Any], reply: ScriptedReply) -> None:
    """Answer `/completions`."""
    head = {"id": "cmpl-actor", "object": "text_completion", "created": 1_700_000_000, "model": "actor-1"}
    usage = {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}

    def choice(text: str, finish: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}

    if not asked.get("stream"):
        await reply.json({**head, "choices": [choice(TEXT, "stop")], "usage": usage})
        return
    await reply.start_stream()
    for piece in pieces(TEXT):
        await reply.event({**head, "choices": [choice(piece, None)]})
    await reply.event({**head, "choices": [choice("", "stop")]})
    if (asked.get("stream_options") or {}).get("include_usage"):
        await reply.event({**head, "choices": [], "usage": usage})
    await reply.event("[DONE]")
    await reply.end_stream()


async def answer_embeddings(asked: Mapping[str, Any], reply: ScriptedReply) -> None:
    """Answer `/embeddings`: each input gets a vector that begins with its position."""
    given = asked["input"]
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    data = []
    for index, _ in enumerate(given):
        vector: Any = [float(index), *VECTOR][: asked.get("dimensions") or 4]
        if asked.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    await reply.json({"object": "list", "data": data, "model": "actor-embed", "usage": usage})
