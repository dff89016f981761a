"""OpenAI chat replies: looked at where accounting or a wish needs it, otherwise passed on as bytes."""

from __future__ import annotations

from typing import Annotated

import msgspec

from router.types import Chunk, Completion, Usage
from router.wire.failures import error_event
from router.wire.fields import index_fields, insert_field, splice
from shared.errors import ServiceError, UpstreamUnavailable
from shared.sse import DONE, SSEEvent, encode_event

__all__ = ["ChatStream", "completion_event", "openai_error", "openai_error_event", "parse_completion", "with_model"]


_NULL = msgspec.Raw(b"null")  # msgspec knows no optional Raw: it would take only null


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _PromptDetails(msgspec.Struct):
    cached_tokens: _Count | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Delta(msgspec.Struct):
    content: msgspec.Raw = _NULL
    tool_calls: msgspec.Raw = _NULL
    function_call: msgspec.Raw = _NULL
    refusal: msgspec.Raw = _NULL
    reasoning_content: msgspec.Raw = _NULL
    reasoning: msgspec.Raw = _NULL
    audio: msgspec.Raw = _NULL


class _ChunkChoice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_ChunkChoice] | None = None
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    object: msgspec.Raw = _NULL


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    object: msgspec.Raw = _NULL


_CHUNK = msgspec.json.Decoder(_Chunk)
_COMPLETION = msgspec.json.Decoder(_Completion)
_USAGE = msgspec.json.Decoder(_Usage)
_NOTHING = (b"null", b'""', b"[]", b"{}")
_ERROR = b'"error"'
"""vLLM's `object` where an error has no envelope."""


def _read_usage(raw: msgspec.Raw) -> Usage | None:
    """Return the reported token counts, or None where nothing was reported that can be read."""
    if bytes(raw) in _NOTHING:
        return None
    try:
        usage = _USAGE.decode(raw)
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


def openai_error(error: ServiceError) -> tuple[int, bytes]:
    """Return the status and the body that tell an error; see `Front.error`."""
    return error.status, error.json()


def openai_error_event(error: ServiceError) -> bytes:
    """Return the event that tells an error in a stream; the missing `[DONE]` says that the answer is not whole."""
    return encode_event(error.json())


def with_model(body: bytes, model: str) -> bytes:
    """Return a JSON object with its top-level `model` replaced; other bytes stay."""
    body, spans = index_fields(body)
    if "model" not in spans:
        return body
    return splice(body, [(*spans["model"], msgspec.json.encode(model))])


def parse_completion(body: bytes, reply_model: str | None) -> Completion:
    """Return a whole answer, its bytes untouched but for `model` where `reply_model` is set.

    Raises:
        UpstreamUnavailable: The body is no chat completion.
        ServiceError: The body is an error in disguise.
    """
    try:
        body.isascii() or body.decode()
        parsed = _COMPLETION.decode(body)
        if reply_model is not None:
            body = with_model(body, reply_model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamUnavailable("The backend's answer is not a valid chat completion.") from error
    if not parsed.choices:
        raise error_event(body if bytes(parsed.object) == _ERROR else parsed.error)
    return Completion(body, _read_usage(parsed.usage), parsed.choices[0].finish_reason)


def completion_event(event: SSEEvent, reply_model: str | None, usage_asked: bool) -> Chunk:
    """Return the chunk for one event of a backend's stream; its `raw` is empty where the client gets nothing.

    Raises:
        UpstreamUnavailable: The event is no chat completion chunk, or is an error.
        UpstreamRejected: The event is an error about the request itself.
    """
    data = event.data
    if data is None:
        return Chunk(event.raw)
    try:
        data.isascii() or data.decode()
        parsed = _CHUNK.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = data.strip()
        if text == b"[DONE]":
            return Chunk(DONE, done=True)
        if not text:
            return Chunk(b"")  # a sign of life that strict clients would take for broken JSON
        raise UpstreamUnavailable("The backend's stream holds an event that is not valid JSON.") from error
    if parsed.error is not _NULL and bytes(parsed.error) not in _NOTHING:
        raise error_event(parsed.error)
    if parsed.object is not _NULL and bytes(parsed.object) == _ERROR:
        raise error_event(data)
    choices = parsed.choices
    usage = None
    if parsed.usage is not _NULL and bytes(parsed.usage) not in _NOTHING:
        usage = _read_usage(parsed.usage)
        if not choices and not usage_asked:
            return Chunk(b"", usage=usage)
    raw = event.raw
    if reply_model is not None or choices is None:
        raw = _rewritten(event, data, reply_model, has_choices=choices is not None)
    output, finish = False, None
    for choice in choices or ():
        output = output or (choice.delta is not None and _has_output(choice.delta))
        finish = finish or choice.finish_reason or None
    return Chunk(raw, output, usage, finish)


class ChatStream:
    """The events of one stream in the OpenAI dialect; a `Translation`.

    Args:
        reply_model: What chunks say in `model`; None keeps the backend's own.
        usage_asked: Whether the client wants the usage chunk.
    """

    def __init__(self, reply_model: str | None, usage_asked: bool) -> None:
        self._reply_model = reply_model
        self._usage_asked = usage_asked
        self._finished = False

    def feed(self, event: SSEEvent) -> tuple[Chunk, ...]:
        """Return the chunk for one event; see `completion_event`."""
        chunk = completion_event(event, self._reply_model, self._usage_asked)
        if chunk.finish_reason is not None:
            self._finished = True
        return (chunk,)

    def close(self) -> tuple[Chunk, ...]:
        """Return `[DONE]`: a server that ends its answer properly but forgets it has still answered.

        Raises:
            UpstreamUnavailable: The answer was not complete.
        """
        if not self._finished:
            raise UpstreamUnavailable("The backend closed the stream before its answer was complete.")
        return (Chunk(DONE, done=True),)


def _rewritten(event: SSEEvent, data: bytes, reply_model: str | None, *, has_choices: bool) -> bytes:
    """Return the event as the client gets it: as it came, unless a wish or a strict client needs more."""
    if reply_model is None and has_choices:
        return event.raw
    if not has_choices:
        data, spans = index_fields(data)
        if not spans:
            return b""
        if "choices" in spans:
            data = splice(data, [(*spans["choices"], b"[]")])
        else:
            data = splice(data, [insert_field(spans, "choices", b"[]")])
    return encode_event(data if reply_model is None else with_model(data, reply_model), event.event)


def _has_output(delta: _Delta) -> bool:
    if delta.content is not _NULL and bytes(delta.content) not in _NOTHING:
        return True
    rest = (
        delta.tool_calls,
        delta.function_call,
        delta.refusal,
        delta.reasoning_content,
        delta.reasoning,
        delta.audio,
    )
    return any(value is not _NULL and bytes(value) not in _NOTHING for value in rest)
