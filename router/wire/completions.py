"""OpenAI's legacy completions: a prompt as it is, and the text that goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from router.types import Caller, Chunk, Completion, InferenceRequest
from router.wire.failures import ABORTED, aborted, error_event
from router.wire.fields import index_fields, splice, with_model
from router.wire.parsing import read_fields
from router.wire.prompts import Prompts, measure
from router.wire.usage import read_usage
from router.wire.wishes import parse_wishes
from shared.errors import InvalidRequest, UpstreamUnavailable
from shared.sse import DONE, SSEEvent, encode_event

__all__ = ["CompletionStream", "parse_completions", "parse_text_completion"]

_NULL = msgspec.Raw(b"null")
_ABSENT = msgspec.Raw(b"")
_NOTHING = (b"null", b'""', b"[]", b"{}")
_NEEDS = frozenset({"completions"})
_RAW = frozenset({"completions", "raw_prompt"})
_ERROR = b'"error"'
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Completions(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    prompt: msgspec.Raw = _ABSENT
    prompt_embeds: msgspec.Raw = _ABSENT  # vLLM's, instead of a prompt
    stream: bool | None = None
    stream_options: _StreamOptions | msgspec.UnsetType | None = msgspec.UNSET
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    n: _AtLeastOne | None = None
    best_of: _AtLeastOne | None = None
    logprobs: msgspec.Raw = _NULL
    echo: bool | None = None
    suffix: str | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    router: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class _Choice(msgspec.Struct):
    index: int | None = None
    text: msgspec.Raw = _NULL
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    object: msgspec.Raw = _NULL


_REQUEST = msgspec.json.Decoder(_Completions)
_ANSWER = msgspec.json.Decoder(_Answer)


def parse_completions(body: bytes, request_id: str, caller: Caller, headers: Mapping[str, str]) -> InferenceRequest:
    """Return the request that `body` and the client's headers make.

    Raises:
        InvalidRequest: The body is not JSON, not UTF-8, or a field has a wrong type or value; the error names
            the field.
    """
    fields, body, spans = read_fields(_REQUEST, body)
    prompts = _prompts(fields)
    choices = max(fields.n or 1, fields.best_of or 1)
    plain = (
        prompts.single
        and choices == 1
        and not fields.echo
        and not fields.suffix
        and bytes(fields.logprobs) in (b"null", b"false")
    )
    options = fields.stream_options
    return InferenceRequest(
        id=request_id,
        endpoint="completions",
        model=fields.model,
        stream=bool(fields.stream),
        body=body,
        spans=spans,
        caller=caller,
        wishes=parse_wishes(headers, fields.router or None),
        headers=headers,
        usage_asked=bool(options and options.include_usage),
        max_tokens=fields.max_tokens,
        choices=choices * prompts.number,
        text_bytes=prompts.text_bytes,
        longest_text_bytes=prompts.longest,
        needs=_NEEDS if plain else _RAW,
    )


def _prompts(fields: _Completions) -> Prompts:
    if fields.prompt is _ABSENT:
        if fields.prompt_embeds is _ABSENT:
            raise InvalidRequest("Missing required parameter: 'prompt'.", param="prompt")
        return Prompts(0, 0, 1)
    if bytes(fields.prompt) == b"null":
        return Prompts(0, 0, 1)
    return measure(fields.prompt, "prompt")


def parse_text_completion(body: bytes, reply_model: str | None) -> Completion:
    """Return a whole answer, its bytes untouched but for `model` where `reply_model` is set.

    Raises:
        UpstreamUnavailable: The body is no completion.
        ServiceError: The body is an error in disguise.
    """
    try:
        body.isascii() or body.decode()
        parsed = _ANSWER.decode(body)
        if reply_model is not None:
            body = with_model(body, reply_model)
    except _FAULTS as error:
        raise UpstreamUnavailable("The backend's answer is not a valid completion.") from error
    if not parsed.choices:
        raise error_event(body if bytes(parsed.object) == _ERROR else parsed.error)
    if parsed.choices[0].finish_reason == ABORTED:
        raise aborted()
    return Completion(body, read_usage(parsed.usage), parsed.choices[0].finish_reason)


class CompletionStream:
    """The events of one stream of text; a `Translation`.

    Args:
        reply_model: What chunks say in `model`; None keeps the backend's own.
        usage_asked: Whether the client wants the usage chunk.
        choices: How many texts there are to come, where the client's `n` tells; each ends by itself.
    """

    def __init__(self, reply_model: str | None, usage_asked: bool, choices: int = 1) -> None:
        self._reply_model = reply_model
        self._usage_asked = usage_asked
        self._choices = choices
        self._ended: set[int] = set()

    def feed(self, event: SSEEvent) -> tuple[Chunk, ...]:
        """Return the chunk for one event; its `raw` is empty where the client gets nothing.

        Raises:
            UpstreamUnavailable: The event is no chunk, or is an error.
            UpstreamRejected: The event is an error about the request itself.
        """
        data = event.data
        if data is None:
            return (Chunk(b": \n\n"),)
        text = data.strip()
        if not text:
            return ()
        if text == b"[DONE]":
            return (Chunk(DONE, done=True),)
        try:
            data.isascii() or data.decode()
            parsed = _ANSWER.decode(data)
        except _FAULTS as error:
            raise UpstreamUnavailable("The backend's stream holds an event that is not valid JSON.") from error
        if bytes(parsed.error) not in _NOTHING:
            raise error_event(parsed.error)
        if bytes(parsed.object) == _ERROR or event.event == "error":
            raise error_event(data)
        return (self._chunk(event, data, parsed),)

    def _chunk(self, event: SSEEvent, data: bytes, parsed: _Answer) -> Chunk:
        choices = parsed.choices or []
        usage = read_usage(parsed.usage)
        if not choices and (usage is None or not self._usage_asked):
            return Chunk(b"", usage=usage)
        output, finish = False, None
        for choice in choices:
            output = output or bytes(choice.text) not in _NOTHING
            if choice.finish_reason:
                if choice.finish_reason == ABORTED:
                    raise aborted()
                finish = finish or choice.finish_reason
                self._ended.add(choice.index or 0)
        if choices and usage is not None and not self._usage_asked:
            data, spans = index_fields(data)  # some tell it with the last text, asked or not
            data = splice(data, [(*spans["usage"], b"null")])
        return Chunk(self._told(event, data), output, usage, finish)

    def _told(self, event: SSEEvent, data: bytes) -> bytes:
        """Return the event as it came, unless a wish or a strict reader needs more."""
        if self._reply_model is not None:
            return encode_event(with_model(data.replace(b"\n", b" "), self._reply_model))
        raw = event.raw
        return raw if raw == b"data: %b\n\n" % data else encode_event(data.replace(b"\n", b" "))

    def close(self) -> tuple[Chunk, ...]:
        """Return `[DONE]`: a server that ends its answer properly but forgets it has still answered.

        Raises:
            UpstreamUnavailable: The answer was not complete.
        """
        if len(self._ended) < self._choices:
            raise UpstreamUnavailable("The backend closed the stream before its answer was complete.")
        return (Chunk(DONE, done=True),)
