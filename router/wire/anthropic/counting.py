"""An estimate of a prompt's tokens, for backends that cannot count."""

from __future__ import annotations

import math

import msgspec

from router.types import Completion, InferenceRequest

__all__ = ["CHANGES", "estimated_count", "estimated_tokens"]

CHANGES = ("input_tokens estimated",)
"""What the client is told beside an estimate."""

_BYTES_PER_TOKEN = 4
_TOKENS_PER_ATTACHMENT = 1500
"""About what Anthropic says of an image of a megapixel."""
_TOKENS_PER_TURN = 4
_TURNS = msgspec.json.Decoder(list[msgspec.Raw])
_OUTSIDE_MESSAGES = ("tools", "tool_choice", "output_config")


def estimated_tokens(request: InferenceRequest) -> int:
    """Return about how many tokens a Messages request's prompt has: four bytes of text and tools each, and so on."""
    body, spans = request.body, request.spans
    size = request.text_bytes
    for name in _OUTSIDE_MESSAGES:
        start, end = spans.get(name, (0, 0))
        size += end - start
    start, end = spans["messages"]
    turns = len(_TURNS.decode(memoryview(body)[start:end]))
    return math.ceil(size / _BYTES_PER_TOKEN) + request.attachments * _TOKENS_PER_ATTACHMENT + turns * _TOKENS_PER_TURN


def estimated_count(request: InferenceRequest) -> Completion:
    """Return the answer to a `count_tokens` request without asking a backend."""
    return Completion(msgspec.json.encode({"input_tokens": estimated_tokens(request)}))
