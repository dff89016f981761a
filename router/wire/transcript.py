"""A stream's chunks joined into one completion, and a completion cut into chunks.

The cache keeps one form of an answer and serves both. What cannot be joined without loss is not
joined: the answer is then simply not kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from router.types import Usage
from shared.sse import DONE, encode_event

__all__ = ["chunks_of", "join_chunks"]

_TEXT = ("content", "refusal", "reasoning_content", "reasoning")
_HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")


def join_chunks(events: Iterable[bytes], usage: Usage | None = None) -> bytes | None:
    """Return the completion that the chunks add up to, or None where they do not.

    None also means an unfinished answer: a choice without a `finish_reason`.

    Args:
        events: The chunks' JSON, in order, without `[DONE]`.
        usage: The token counts, where no chunk carries them.
    """
    whole: dict[str, Any] = {"object": "chat.completion", "choices": [], "usage": None}
    choices: dict[int, dict[str, Any]] = {}
    for data in events:
        chunk = msgspec.json.decode(data)
        for key, value in chunk.items():
            if key in _HEAD:
                whole.setdefault(key, value)
            elif key == "usage":
                whole["usage"] = value or whole["usage"]
            elif key not in ("object", "choices") and value is not None:
                return None
        for part in chunk.get("choices") or ():
            if not _join_choice(choices.setdefault(part.get("index", 0), _new_choice(part)), part):
                return None
    whole["choices"] = [choices[index] for index in sorted(choices)]
    if not choices or any(choice["finish_reason"] is None for choice in choices.values()):
        return None
    if whole["usage"] is None and usage is not None:
        whole["usage"] = usage.openai()
    return msgspec.json.encode(whole)


def _new_choice(part: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None}
    return {"index": part.get("index", 0), "message": message, "logprobs": None, "finish_reason": None}


def _join_choice(choice: dict[str, Any], part: dict[str, Any]) -> bool:
    for key, value in part.items():
        if key == "finish_reason":
            choice[key] = value or choice[key]
        elif key == "delta":
            if not _join_delta(choice["message"], value or {}):
                return False
        elif key != "index" and value is not None:
            return False  # logprobs and foreign fields have no rule for joining
    return True


def _join_delta(message: dict[str, Any], delta: dict[str, Any]) -> bool:
    for key, value in delta.items():
        if value is None:
            continue
        if key == "role":
            message["role"] = value
        elif key in _TEXT:
            message[key] = (message.get(key) or "") + value
        elif key == "tool_calls":
            for call in value:
                _join_call(message.setdefault("tool_calls", []), call)
        else:
            return False
    return True


def _join_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    index = part.get("index", 0)
    while len(calls) <= index:
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    call["id"] = call["id"] or part.get("id")
    function = part.get("function") or {}
    for key in ("name", "arguments"):
        call["function"][key] += function.get(key) or ""


def chunks_of(completion: bytes, usage_asked: bool) -> list[bytes]:
    """Return a completion as the SSE events of a stream, `[DONE]` last."""
    whole = msgspec.json.decode(completion)
    head = {key: whole[key] for key in _HEAD if key in whole}
    head["object"] = "chat.completion.chunk"
    if usage_asked:
        head["usage"] = None
    events: list[bytes] = []
    for choice in whole["choices"]:
        message = dict(choice["message"])
        calls = message.pop("tool_calls", None)
        role = {"role": message.pop("role", "assistant")}
        body = {key: value for key, value in message.items() if value is not None}
        if calls:
            body["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
        for delta, finish in ((role, None), (body, None), ({}, choice.get("finish_reason"))):
            part = {"index": choice.get("index", 0), "delta": delta, "logprobs": None, "finish_reason": finish}
            events.append(encode_event(msgspec.json.encode({**head, "choices": [part]})))
    if usage_asked:
        events.append(encode_event(msgspec.json.encode({**head, "choices": [], "usage": whole.get("usage")})))
    return [*events, DONE]
