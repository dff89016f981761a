"""A `generateContent` answer as a chat completion, and the grammar that streams share with it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from router.types import Completion, InferenceRequest
from router.wire.gemini.shapes import Candidate, Part, logprobs_of, read_answer
from shared.errors import UpstreamUnavailable

__all__ = ["Choice", "asks_by_function", "parse_generated"]

_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length"}
"""Any other reason means that the answer was withheld or broken off."""
_BROKEN = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
        "TOO_MANY_TOOL_CALLS",
        "UNEXPECTED_TOOL_CALL",
    }
)
"""Reasons that leave nothing which a client could take for an answer."""


def asks_by_function(request: InferenceRequest) -> bool:
    """Return whether a request comes from a client of the time before tools."""
    return "functions" in request.spans and "tools" not in request.spans


class Choice:
    """One choice of an answer, told piece by piece; a whole answer is all its pieces joined.

    Args:
        request: What was asked; the ids of tool calls come of its id.
        index: The choice's place among several.
    """

    def __init__(self, request: InferenceRequest, index: int) -> None:
        self.index = index
        self.finish: str | None = None
        """Why it ended, in the chat's words, once it has."""
        self._request_id = request.id
        self._by_function = asks_by_function(request)
        self._calls = 0

    def add(self, candidate: Candidate) -> list[dict[str, Any]]:
        """Return the deltas for what a candidate, or an event's part of it, says.

        Raises:
            UpstreamUnavailable: The model broke off in a way that leaves no answer.
        """
        parts = (candidate.content.parts if candidate.content is not None else None) or ()
        deltas = [delta for part in parts if (delta := self._delta(part))]
        reason = candidate.finish_reason
        if reason in _BROKEN:
            raise UpstreamUnavailable(f"The backend's model broke off its answer ({reason}).")
        if reason:
            self.finish = _FINISH.get(reason, "content_filter")
        if self.finish == "stop" and self._calls:
            self.finish = "function_call" if self._by_function else "tool_calls"
        return deltas

    def _delta(self, part: Part) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        extra = {"google": {"thought_signature": part.thought_signature}} if part.thought_signature else None
        if part.function_call is not None:
            return self._call(part, extra)
        if part.text:
            delta["reasoning_content" if part.thought else "content"] = part.text
        elif part.inline_data is not None and part.inline_data.mime_type.startswith("image/"):
            url = f"data:{part.inline_data.mime_type};base64,{part.inline_data.data}"
            delta["images"] = [{"type": "image_url", "image_url": {"url": url}}]
        if extra is not None:
            delta["extra_content"] = extra
        return delta

    def _call(self, part: Part, extra: dict[str, Any] | None) -> dict[str, Any]:
        call = part.function_call
        assert call is not None
        given = bytes(call.args)
        arguments = "{}" if given == b"null" else msgspec.json.format(given, indent=-1).decode()
        function = {"name": call.name, "arguments": arguments}
        index = self._calls
        self._calls += 1
        if self._by_function:
            return {"function_call": function}
        told = {"index": index, "id": call.id or self._call_id(index), "type": "function", "function": function}
        return {"tool_calls": [told if extra is None else told | {"extra_content": extra}]}

    def _call_id(self, index: int) -> str:
        """Return an id that no other call has, short enough for every other backend of the same conversation."""
        seed = f"{self._request_id}/{self.index}/{index}"
        return "call_" + hashlib.sha256(seed.encode()).hexdigest()[:24]


def parse_generated(
    body: bytes, request: InferenceRequest, model: str, reply_model: str | None, created: int
) -> Completion:
    """Return a whole answer as a chat completion.

    Args:
        body: The backend's answer.
        request: What was asked; its id becomes the completion's.
        model: The deployment's model, said where the backend names none.
        reply_model: What the answer says in `model`; None keeps the backend's own.
        created: Unix seconds.

    Raises:
        UpstreamUnavailable: It is no answer.
        ServiceError: It is an error, as ours.
    """
    answer = read_answer(body)
    choices: list[dict[str, Any]] = []
    for place, candidate in enumerate(answer.candidates or ()):
        choice = Choice(request, place if candidate.index is None else candidate.index)
        message = _message(choice.add(candidate))
        if choice.finish is None:
            raise UpstreamUnavailable("The backend's answer is not complete.")
        choices.append(_choice(choice.index, message, logprobs_of(candidate), choice.finish))
    if not choices:
        if (reason := answer.blocked) is None:
            raise UpstreamUnavailable("The backend's answer holds neither candidates nor an error.")
        choices.append(_choice(0, _message([{"refusal": reason}]), None, "content_filter"))
    choices.sort(key=lambda one: int(one["index"]))
    usage = answer.usage
    whole = {
        "id": f"chatcmpl-{request.id}",
        "object": "chat.completion",
        "created": created,
        "model": reply_model or answer.model_version or model,
        "choices": choices,
        "usage": None if usage is None else usage.openai(),
    }
    return Completion(msgspec.json.encode(whole), usage, str(choices[0]["finish_reason"]))


def _choice(index: int, message: dict[str, Any], logprobs: dict[str, Any] | None, finish: str) -> dict[str, Any]:
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}


def _message(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that the deltas add up to."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    for delta in deltas:
        for name, value in delta.items():
            if isinstance(value, str):
                message[name] = (message.get(name) or "") + value
            elif name == "tool_calls":
                calls = [{key: told for key, told in call.items() if key != "index"} for call in value]
                message.setdefault(name, []).extend(calls)
            elif isinstance(value, list):
                message.setdefault(name, []).extend(value)
            else:
                message[name] = value
    if message["content"] is None and len(message) == 3 and message["refusal"] is None:
        message["content"] = ""
    return message
