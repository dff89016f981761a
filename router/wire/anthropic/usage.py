"""Token counts: Anthropic counts cached prompt tokens beside the others, OpenAI among them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from shared.types import Usage

__all__ = ["Counts", "chat_usage", "merge_counts", "messages_usage", "read_counts", "usage_of"]

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _OutputDetails(msgspec.Struct):
    thinking_tokens: _Count | None = None


class Counts(msgspec.Struct):
    """The part of a Messages `usage` object that is billed."""

    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    output_tokens_details: _OutputDetails | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: _Count | None = None


class _ChatUsage(msgspec.Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


_COUNTS: msgspec.json.Decoder[Counts | None] = msgspec.json.Decoder(Counts | None)
_CHAT = msgspec.json.Decoder(_ChatUsage)


def read_counts(raw: msgspec.Raw | bytes) -> Counts | None:
    """Return the counts of a `usage` object, or None where it has none that can be read."""
    try:
        return _COUNTS.decode(raw)
    except msgspec.DecodeError:
        return None  # an answer is not lost to a count


def merge_counts(known: Counts | None, news: Counts | None) -> Counts | None:
    """Return the counts after another report: they are running totals, and what it leaves out stays as it was."""
    if known is None or news is None:
        return known if news is None else news
    names = Counts.__struct_fields__
    pairs = ((name, getattr(news, name)) for name in names)
    return msgspec.structs.replace(known, **{name: value for name, value in pairs if value is not None})


def usage_of(counts: Counts | None) -> Usage | None:
    """Return the counts as the router bills them; prompt tokens include those read from and written to a cache."""
    if counts is None:
        return None
    read = counts.cache_read_input_tokens or 0
    output = counts.output_tokens or 0
    details = counts.output_tokens_details
    return Usage(
        prompt_tokens=(counts.input_tokens or 0) + read + (counts.cache_creation_input_tokens or 0),
        completion_tokens=output,
        cached_tokens=read,
        reasoning_tokens=min((details.thinking_tokens or 0) if details else 0, output),
    )


def chat_usage(counts: Counts | None) -> dict[str, Any] | None:
    """Return the counts as OpenAI's `usage` object."""
    usage = usage_of(counts)
    if usage is None or counts is None:
        return None
    told = usage.openai()
    if counts.cache_creation_input_tokens:
        told["prompt_tokens_details"]["cache_write_tokens"] = counts.cache_creation_input_tokens
    return told


def messages_usage(raw: msgspec.Raw | bytes) -> dict[str, Any] | None:
    """Return OpenAI's `usage` object as a Messages one, or None where it holds nothing that can be read."""
    try:
        usage = _CHAT.decode(raw)
    except msgspec.DecodeError:
        return None
    details, spent = usage.prompt_tokens_details, usage.completion_tokens_details
    prompt = usage.prompt_tokens or 0
    read = min((details.cached_tokens or 0) if details else 0, prompt)
    written = min((details.cache_write_tokens or 0) if details else 0, prompt - read)
    told: dict[str, Any] = {
        "input_tokens": prompt - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens or 0,
    }
    thought = (spent.reasoning_tokens or 0) if spent else 0
    if thought:
        told["output_tokens_details"] = {"thinking_tokens": min(thought, told["output_tokens"])}
    return told
