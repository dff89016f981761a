"""What routing may look at, taken from a request once."""

from __future__ import annotations

from decimal import Decimal
from typing import TypeVar

from router.types import Constraints, Features, InferenceRequest, Privacy

__all__ = ["extract_features", "strictest"]

BYTES_PER_TOKEN = 4
"""English and code come to about four bytes a token in the tokenizers in use."""
MOST_BYTES_PER_TOKEN = 16
"""Ordinary text does not get above this, so `bytes / 16` is a safe lower bound."""
TOKENS_PER_ATTACHMENT = 1000
_SESSION_FIELDS: dict[str, str] = {"chat": "prompt_cache_key", "responses": "prompt_cache_key", "messages": "metadata"}
"""Where clients say which requests share a prompt. `user` is not: many applications say the same in all."""
_NO_SESSION = (b"null", b'""', b"{}")
_Amount = TypeVar("_Amount", int, Decimal)
_STRICTNESS: dict[Privacy, int] = {"any": 0, "cluster": 1, "local": 2}


def extract_features(request: InferenceRequest, constraints: Constraints) -> Features:
    """Return the features; a wish tightens a policy's constraint and never loosens it."""
    wishes = request.wishes
    longest = request.text_bytes if request.longest_text_bytes is None else request.longest_text_bytes
    prompt = request.text_bytes // BYTES_PER_TOKEN + request.attachments * TOKENS_PER_ATTACHMENT + 1
    return Features(
        needs=request.needs,
        prompt_tokens=prompt,
        prompt_tokens_least=longest // MOST_BYTES_PER_TOKEN,
        max_tokens=request.max_tokens,
        stream=request.stream,
        choices=request.choices,
        privacy=strictest(wishes.privacy, constraints.privacy),
        max_cost_usd=_least(wishes.max_cost_usd, constraints.max_cost_usd),
        first_token_ms=_least(wishes.first_token_ms, constraints.first_token_ms),
        session=wishes.session or _session(request),
        pin=request.pin,
    )


def _session(request: InferenceRequest) -> str | None:
    """Return what the requests of one conversation have in common by their own word, as it is written."""
    span = request.spans.get(_SESSION_FIELDS.get(request.endpoint, ""))
    if span is None:
        return None
    written = request.body[span[0] : span[1]]
    return None if written in _NO_SESSION else written.decode("utf-8", "replace")


def strictest(a: Privacy, b: Privacy) -> Privacy:
    """Return the stricter of two levels."""
    return a if _STRICTNESS[a] >= _STRICTNESS[b] else b


def _least(a: _Amount | None, b: _Amount | None) -> _Amount | None:
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)
