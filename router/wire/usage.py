"""Token counts as backends of the OpenAI dialect report them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from router.types import Usage

__all__ = ["read_usage"]

_Count = Annotated[int, msgspec.Meta(ge=0)]
_NOTHING = (b"null", b'""', b"[]", b"{}")


class _PromptDetails(msgspec.Struct):
    cached_tokens: _Count | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _OtherUsage(msgspec.Struct):
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    total_tokens: _Count | None = None


_USAGE = msgspec.json.Decoder(_Usage)
_OTHER = msgspec.json.Decoder(_OtherUsage)


def read_usage(raw: msgspec.Raw) -> Usage | None:
    """Return the reported token counts, or None where nothing was reported that can be read.

    Chat, completions and embeddings count `prompt_tokens`, images and audio `input_tokens`; some rerankers tell
    nothing but `total_tokens`.
    """
    if bytes(raw) in _NOTHING:
        return None
    try:
        usage = _USAGE.decode(raw)
        if usage.prompt_tokens is None and usage.completion_tokens is None:
            return _other(_OTHER.decode(raw))
    except msgspec.DecodeError:
        return None  # an answer is not lost to a count
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    prompt_tokens, completion_tokens = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_tokens=min((prompt.cached_tokens or 0) if prompt else 0, prompt_tokens),
        reasoning_tokens=min((completion.reasoning_tokens or 0) if completion else 0, completion_tokens),
    )


def _other(usage: _OtherUsage) -> Usage | None:
    if usage.input_tokens is not None or usage.output_tokens is not None:
        return Usage(usage.input_tokens or 0, usage.output_tokens or 0)
    return None if usage.total_tokens is None else Usage(usage.total_tokens, 0)
