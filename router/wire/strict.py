"""A chat request for a provider that refuses what it does not know."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import structs

from router.types import InferenceRequest
from router.wire.fields import index_fields, insert_field, remove_field, splice

__all__ = ["with_limit_as", "without_foreign_state"]

_TURNS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_CALLS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def without_foreign_state(request: InferenceRequest) -> InferenceRequest:
    """Return a chat request without what only other providers can read of its earlier turns.

    Signed thinking (`thinking_blocks`) is Anthropic's, `extra_content` of a tool call Google's; both come back
    from clients that were answered there before. What is dropped joins the request's `changes`.
    """
    body = request.body
    if b"thinking_blocks" not in body and b"extra_content" not in body:
        return request
    start, end = request.spans["messages"]
    turns: list[dict[str, Any]] = list(_TURNS.decode(body[start:end]))
    dropped: dict[str, None] = {}
    for turn in turns:
        if turn.pop("thinking_blocks", None) is not None:
            dropped["messages.thinking_blocks dropped"] = None
        calls = turn.get("tool_calls", msgspec.Raw(b"null"))
        if b"extra_content" in bytes(calls):
            turn["tool_calls"] = told = _CALLS.decode(calls)
            for call in told:
                if call.pop("extra_content", None) is not None:
                    dropped["messages.tool_calls.extra_content dropped"] = None
    if not dropped:
        return request
    return _changed(request, splice(body, [(start, end, msgspec.json.encode(turns))]), (*dropped,))


def with_limit_as(request: InferenceRequest, name: str) -> InferenceRequest:
    """Return a chat request that gives its limit of tokens under `name`.

    OpenAI's reasoning models know `max_completion_tokens` alone, many servers `max_tokens` alone.
    """
    other = "max_tokens" if name == "max_completion_tokens" else "max_completion_tokens"
    spans = request.spans
    if other not in spans or name in spans:
        return request
    start, end = spans[other]
    value = bytes(request.body[start:end])
    body, spans = index_fields(splice(request.body, [remove_field(request.body, spans, other)]))
    return _changed(request, splice(body, [insert_field(spans, name, value)]), ())


def _changed(request: InferenceRequest, body: bytes, changes: tuple[str, ...]) -> InferenceRequest:
    body, spans = index_fields(body)
    return structs.replace(request, body=body, spans=spans, changes=(*request.changes, *changes))
