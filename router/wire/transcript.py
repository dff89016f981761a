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
"""Fields that a server may leave empty until it knows them: the first value counts."""
_OWN = ("object", "choices", "usage")
_PADDING = ("obfuscation",)
"""OpenAI's filler against the measuring of token lengths; it says nothing."""
_CALL = ("index", "id", "type", "function")
_FUNCTION = ("name", "arguments")
_CHOICE = ("index", "message", "logprobs", "finish_reason")
_NULL = msgspec.Raw(b"null")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OBJECTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_CALLS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | None)


def join_chunks(events: Iterable[bytes], usage: Usage | None = None) -> bytes | None:
    """Return the completion that the chunks add up to, or None where they do not.

    None also means an unfinished answer: a choice without a `finish_reason`.

    Args:
        events: The chunks' JSON, in order, without `[DONE]`.
        usage: The token counts, where no chunk carries them.
    """
    whole: dict[str, Any] = {"object": "chat.completion", "choices": [], "usage": None}
    choices: dict[int, dict[str, Any]] = {}
    try:
        for data in events:
            if not _join(whole, choices, msgspec.json.decode(data)):
                return None
    except (AttributeError, TypeError, ValueError, RecursionError, msgspec.DecodeError):
        return None  # a field holds what the shape of a chunk does not allow
    whole["choices"] = [choices[index] for index in sorted(choices)]
    if not choices or any(choice["finish_reason"] is None for choice in choices.values()):
        return None
    if whole["usage"] is None and usage is not None:
        whole["usage"] = usage.openai()
    return msgspec.json.encode(whole)


def _join(whole: dict[str, Any], choices: dict[int, dict[str, Any]], chunk: dict[str, Any]) -> bool:
    for key, value in chunk.items():
        if key in _HEAD:
            whole[key] = whole.get(key) or value
        elif key == "usage":
            whole["usage"] = value or whole["usage"]
        elif key in _OWN or key in _PADDING or value is None:
            continue
        elif whole.setdefault(key, value) != value:
            return False
    for part in chunk.get("choices") or ():
        index = part.get("index", 0)
        if not isinstance(index, int):
            return False
        if not _join_choice(choices.setdefault(index, _new_choice(index)), part):
            return False
    return True


def _new_choice(index: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


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
            if not all(_join_call(message.setdefault("tool_calls", []), call) for call in value):
                return False
        else:
            return False
    return True


def _join_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> bool:
    """Add a piece of a tool call; only a piece that says which call it belongs to can be added."""
    index = part.get("index")
    if not isinstance(index, int) or not 0 <= index <= len(calls):
        return False
    if any(value is not None and key not in _CALL for key, value in part.items()):
        return False
    if part.get("type") not in (None, "", "function"):
        return False
    if index == len(calls):
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    identity = part.get("id")
    if identity and call["id"] not in (None, identity):
        return False
    call["id"] = call["id"] or identity
    function = part.get("function") or {}
    if any(value is not None and key not in _FUNCTION for key, value in function.items()):
        return False
    name = function.get("name") or ""
    if name and call["function"]["name"]:
        return False  # repeated, or continued: nobody can say
    call["function"]["name"] += name
    call["function"]["arguments"] += function.get("arguments") or ""
    return True


def chunks_of(completion: bytes, usage_asked: bool) -> list[bytes]:
    """Return a completion as the SSE events of a stream, `[DONE]` last.

    Each choice comes as its role, everything it says, and its end. Fields that have no place of
    their own in a stream stay where they are: in the chunk, in the choice, in the message.

    Raises:
        msgspec.ValidationError: It is no chat completion.
    """
    # Without line breaks: each chunk is to be one line.
    whole = _OBJECT.decode(msgspec.json.format(completion, indent=-1))
    choices = _OBJECTS.decode(whole.get("choices", _NULL))
    usage = whole.get("usage", _NULL)
    usage_asked = usage_asked and bytes(usage) != b"null"
    head: dict[str, Any] = {key: value for key, value in whole.items() if key not in _OWN}
    head["object"] = "chat.completion.chunk"
    if usage_asked:
        head["usage"] = None
    chunks = [{**head, "choices": [part]} for choice in choices for part in _parts(choice)]
    if usage_asked:
        chunks.append({**head, "choices": [], "usage": usage})
    return [*(encode_event(msgspec.json.encode(chunk)) for chunk in chunks), DONE]


def _parts(choice: dict[str, msgspec.Raw]) -> list[dict[str, Any]]:
    message = _OBJECT.decode(choice.get("message", _NULL))
    calls = _CALLS.decode(message.pop("tool_calls", _NULL)) or []
    role = {"role": message.pop("role", "assistant")}
    said: dict[str, Any] = {key: value for key, value in message.items() if bytes(value) != b"null"}
    if calls:
        said["tool_calls"] = [{**call, "index": index} for index, call in enumerate(calls)]
    place = {"index": choice.get("index", 0)}
    foreign = {key: value for key, value in choice.items() if key not in _CHOICE}
    return [
        {**place, "delta": role, "logprobs": None, "finish_reason": None},
        {**place, "delta": said, "logprobs": choice.get("logprobs"), "finish_reason": None},
        {**place, "delta": {}, "logprobs": None, "finish_reason": choice.get("finish_reason"), **foreign},
    ]
