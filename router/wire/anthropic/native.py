"""What is already in the dialect: bytes passed through, looked at where accounting or a wish needs it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from router.types import Chunk, Completion, InferenceRequest
from router.wire.anthropic.reasons import finish_reason
from router.wire.anthropic.usage import Counts, merge_counts, read_counts, usage_of
from router.wire.failures import aborted, error_event
from router.wire.fields import Splice, index_fields, remove_field, splice, splice_parts
from shared.errors import UpstreamRejected, UpstreamUnavailable
from shared.sse import SSEEvent, encode_event

__all__ = [
    "MessagesStream",
    "forwarded_parts",
    "parse_count",
    "parse_message",
    "refuses_a_signature",
    "without_foreign_thinking",
    "without_thinking",
]

_NULL = msgspec.Raw(b"null")
_UNSIGNED = re.compile(rb'"signature"\s*:\s*""')
_THINKING = ("thinking", "redacted_thinking")
_SILENCE = b": ping\n\n"
_SILENT_BLOCKS = ("text", "thinking")
"""Blocks that begin empty: what comes of them comes later."""


class _Message(msgspec.Struct):
    type: str = ""
    model: str | None = None
    stop_reason: str | None = None
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    content: msgspec.Raw = _NULL


class _Delta(msgspec.Struct):
    stop_reason: str | None = None


class _Block(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


class _Turn(msgspec.Struct):
    role: str
    content: msgspec.Raw


class _BlockType(msgspec.Struct):
    type: str = ""
    signature: str | None = None


class _Count(msgspec.Struct):
    input_tokens: int | None = None
    error: msgspec.Raw = _NULL


_MESSAGE = msgspec.json.Decoder(_Message)
_EVENT = msgspec.json.Decoder(_Event)
_COUNT = msgspec.json.Decoder(_Count)
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_TURN = msgspec.json.Decoder(_Turn)
_BLOCK_TYPE = msgspec.json.Decoder(_BlockType)
_Broken = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def forwarded_parts(
    request: InferenceRequest, upstream_model: str
) -> tuple[Sequence[bytes | memoryview], Sequence[str]]:
    """Return the client's bytes with the backend's model name, without the `router` object, and what else changed.

    Thinking that nobody signed comes from another model by way of a bridge; Anthropic would refuse it.
    """
    body, spans = request.body, request.spans
    changes: list[str] = []
    splices: list[Splice] = [(*spans["model"], msgspec.json.encode(upstream_model))]
    if _UNSIGNED.search(body):
        start, end = spans["messages"]
        kept = without_thinking(body[start:end], unsigned_only=True)
        if kept is not None:
            splices.append((start, end, kept))
            changes.append("unsigned thinking dropped")
    parts = splice_parts(body, splices)
    if "router" in spans:
        body, spans = index_fields(b"".join(parts))
        parts = splice_parts(body, [remove_field(body, spans, "router")])
    return parts, changes


def without_thinking(messages: bytes, *, unsigned_only: bool = False) -> bytes | None:
    """Return a list of messages without thinking blocks, or None where it has none; other bytes stay."""
    turns = _RAWS.decode(messages)
    kept: list[msgspec.Raw] = []
    changed = False
    for raw in turns:
        turn = _TURN.decode(raw)
        if turn.role != "assistant" or not bytes(turn.content).startswith(b"["):
            kept.append(raw)
            continue
        blocks = _RAWS.decode(turn.content)
        rest = [block for block in blocks if not _is_thinking(block, unsigned_only=unsigned_only)]
        if len(rest) == len(blocks):
            kept.append(raw)
            continue
        changed = True
        if rest:  # a turn of nothing would be refused too
            whole, spans = index_fields(bytes(raw))
            kept.append(msgspec.Raw(splice(whole, [(*spans["content"], msgspec.json.encode(rest))])))
    return msgspec.json.encode(kept) if changed else None


def refuses_a_signature(error: UpstreamRejected) -> bool:
    """Return whether a backend refuses thinking that another provider signed."""
    return error.status == 400 and "signature" in error.message.lower()


def without_foreign_thinking(parts: Sequence[bytes | memoryview]) -> tuple[bytes, Sequence[str]] | None:
    """Return a Messages body without any thinking of earlier turns, and what changed; None where it has none.

    A budget for thinking goes with it: a model that has one refuses a call of a tool without the thinking before it.
    """
    body, spans = index_fields(b"".join(parts))
    start, end = spans["messages"]
    kept = without_thinking(body[start:end])
    if kept is None:
        return None
    splices: list[Splice] = [(start, end, kept)]
    changes = ["thinking blocks dropped"]
    if "thinking" in spans:
        start, end = spans["thinking"]
        if b'"enabled"' in body[start:end]:
            splices.append((start, end, b'{"type":"disabled"}'))
            changes.append("thinking set to disabled")
    return splice(body, splices), changes


def _is_thinking(raw: msgspec.Raw, *, unsigned_only: bool) -> bool:
    block = _BLOCK_TYPE.decode(raw)
    if unsigned_only:
        return block.type == "thinking" and not block.signature
    return block.type in _THINKING


def parse_message(body: bytes, reply_model: str | None) -> Completion:
    """Return a whole answer, its bytes untouched but for `model` where `reply_model` is set.

    Raises:
        UpstreamUnavailable: The body is no message.
        ServiceError: The body is an error in disguise.
    """
    try:
        body.isascii() or body.decode()
        message = _MESSAGE.decode(body)
        if reply_model is not None:
            body = _with_model(body, reply_model)
    except _Broken as error:
        raise UpstreamUnavailable("The backend's answer is not a valid message.") from error
    if bytes(message.error) != b"null":
        raise error_event(message.error)
    if not bytes(message.content).startswith(b"["):
        raise UpstreamUnavailable("The backend's answer is not a valid message.")
    if message.stop_reason is None:
        raise aborted()  # what vLLM broke off has no reason in this dialect
    return Completion(body, usage_of(read_counts(message.usage)), finish_reason(message.stop_reason) or "stop")


def parse_count(body: bytes) -> Completion:
    """Return a count of tokens, its bytes untouched.

    Raises:
        UpstreamUnavailable: The body is no count.
    """
    try:
        count = _COUNT.decode(body)
    except _Broken as error:
        raise UpstreamUnavailable("The backend's answer is not a valid count of tokens.") from error
    if count.input_tokens is None:
        raise error_event(count.error)
    return Completion(body)


def _with_model(body: bytes, model: str) -> bytes:
    body, spans = index_fields(body)
    if "model" not in spans:
        return body
    return splice(body, [(*spans["model"], msgspec.json.encode(model))])


def _framed(event: SSEEvent, data: bytes, kind: str) -> bytes:
    """Return an event as Anthropic writes it; other ways break clients that know only that one.

    The length tells: any other field, spacing or line end, but for those that are looked for, changes it.
    """
    raw, name = event.raw, kind or event.event or ""
    end = len(name) + 7
    usual = len(raw) == end + len(data) + 9 and raw.startswith(b"event: ") and raw[end : end + 7] == b"\ndata: "
    if usual and event.event == name and raw.endswith(b"\n\n"):
        return raw
    return encode_event(data.replace(b"\n", b" "), name or None)


class MessagesStream:
    """The events of one Messages stream, for a client of the same dialect; a `Translation`.

    Args:
        reply_model: What the message says in `model`; None keeps the backend's own.
    """

    def __init__(self, reply_model: str | None) -> None:
        self._reply_model = reply_model
        self._counts: Counts | None = None
        self._started = False
        self._finished = False
        self._unexplained = False
        """Whether the event that tells why the answer ends tells nothing; see `parse_message`."""
        self._stopped = False

    def feed(self, event: SSEEvent) -> tuple[Chunk, ...]:
        """Return the chunk for one event.

        Raises:
            ServiceError: The event is not valid, or says that the backend failed.
        """
        data = event.data
        if data is None or not data.strip():
            return (Chunk(_SILENCE if event.raw.startswith(b":") else b""),)
        try:
            data.isascii() or data.decode()
            told = _EVENT.decode(data)
        except _Broken as error:
            if data.strip() == b"[DONE]":
                return (Chunk(b""),)
            raise UpstreamUnavailable("The backend's stream holds an event that is not valid JSON.") from error
        kind = told.type
        raw = _framed(event, data, kind)
        if kind == "content_block_delta":
            return (Chunk(raw, output=True),)
        if kind == "error" or bytes(told.error) != b"null":
            raise error_event(told.error)
        return (self._other(raw, data, told),)

    def _other(self, raw: bytes, data: bytes, told: _Event) -> Chunk:
        kind = told.type
        if kind == "message_start" and told.message is not None:
            self._started = True
            self._counts = read_counts(told.message.usage)
            if self._reply_model is not None:
                data, spans = index_fields(data)
                start, end = spans["message"]
                data = splice(data, [(start, end, _with_model(data[start:end], self._reply_model))])
                raw = encode_event(data.replace(b"\n", b" "), kind)
            return Chunk(raw)
        if kind == "content_block_start":
            block = told.content_block
            return Chunk(raw, output=block is not None and (block.type not in _SILENT_BLOCKS or bool(block.text)))
        if kind == "message_delta":
            self._counts = merge_counts(self._counts, read_counts(told.usage))
            reason = told.delta.stop_reason if told.delta else None
            self._finished = self._finished or reason is not None
            self._unexplained = not self._finished
            return Chunk(raw, usage=usage_of(self._counts), finish_reason=finish_reason(reason))
        if kind == "message_stop":
            if not self._started:
                raise UpstreamUnavailable("The backend ended its stream without an answer.")
            if self._unexplained:
                raise aborted()
            self._stopped = True
            return Chunk(raw, done=True)
        return Chunk(raw)

    def close(self) -> tuple[Chunk, ...]:
        """Return what ends a message that gave its reason to stop, where the bytes end without `message_stop`.

        Raises:
            UpstreamUnavailable: The bytes ended before the message did.
        """
        if self._stopped:
            return ()
        if not self._finished:
            raise UpstreamUnavailable("The backend closed the stream before its answer was complete.")
        return (Chunk(encode_event(b'{"type":"message_stop"}', "message_stop"), done=True),)
