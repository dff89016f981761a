"""OpenAI chat replies: looked at where accounting or a wish needs it, otherwise passed on as bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from router.types import Chunk, Completion
from router.wire.failures import ABORTED, aborted, error_event
from router.wire.fields import index_fields, insert_field, splice, with_model
from router.wire.usage import read_usage
from shared.errors import ServiceError, UpstreamUnavailable
from shared.sse import DONE, SSEEvent, encode_event

__all__ = ["ChatStream", "completion_event", "openai_error", "openai_error_event", "parse_completion"]


_NULL = msgspec.Raw(b"null")  # msgspec knows no optional Raw: it would take only null


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
_NOTHING = (b"null", b'""', b"[]", b"{}")
_SILENCE = b": ping\n\n"
_SPACE, _NEWLINE = b" \n"
_ERROR = b'"error"'
"""vLLM's `object` where an error has no envelope."""


def openai_error(error: ServiceError) -> tuple[int, bytes]:
    """Return the status and the body that tell an error; see `Front.error`."""
    return error.status, error.json()


def openai_error_event(error: ServiceError) -> bytes:
    """Return the event that tells an error in a stream; the missing `[DONE]` says that the answer is not whole."""
    return encode_event(error.json())


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
    if parsed.choices[0].finish_reason == ABORTED:
        raise aborted()
    return Completion(body, read_usage(parsed.usage), parsed.choices[0].finish_reason)


def completion_event(event: SSEEvent, reply_model: str | None, usage_asked: bool, running: bool = False) -> Chunk:
    """Return the chunk for one event of a backend's stream; its `raw` is empty where the client gets nothing.

    Args:
        event: The event.
        reply_model: What chunks say in `model`; None keeps the backend's own.
        usage_asked: Whether the client wants the chunk with the usage, which has no choices.
        running: Whether it wants the usage beside choices too; no client is prepared for that unasked.

    Raises:
        UpstreamUnavailable: The event is no chat completion chunk, or is an error.
        UpstreamRejected: The event is an error about the request itself.
    """
    return _look(event, reply_model, usage_asked, running)[0]


def _look(event: SSEEvent, reply_model: str | None, usage_asked: bool, running: bool) -> tuple[Chunk, bool]:
    """Return what `completion_event` does, and whether the event holds pieces of tool calls."""
    data = event.data
    raw = event.raw
    if data is None:
        return Chunk(_SILENCE if raw.startswith(b":") else b""), False
    # One line of data, and nothing else.
    plain = len(raw) == len(data) + 8 and raw[5] == _SPACE and raw[-1] == _NEWLINE
    if not plain and event.event == "error":
        raise error_event(_error_in(data))
    try:
        data.isascii() or data.decode()
        parsed = _CHUNK.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = data.strip()
        if text == b"[DONE]":
            return Chunk(DONE, done=True), False
        if not text:
            return Chunk(b""), False  # a sign of life that strict clients would take for broken JSON
        raise UpstreamUnavailable("The backend's stream holds an event that is not valid JSON.") from error
    if parsed.error is not _NULL and bytes(parsed.error) not in _NOTHING:
        raise error_event(parsed.error)
    choices = parsed.choices
    if not choices and bytes(parsed.object) == _ERROR:
        raise error_event(data)
    usage, uncalled = None, False
    if parsed.usage is not _NULL and bytes(parsed.usage) not in _NOTHING:
        usage = read_usage(parsed.usage)
        if not choices and not usage_asked:
            return Chunk(b"", usage=usage), False
        uncalled = usage is not None and bool(choices) and not running
    if reply_model is not None or choices is None or uncalled:
        raw = _rewritten(data, reply_model, has_choices=choices is not None, tells_usage=not uncalled)
    elif not plain:
        # Other fields, line ends and spacings are allowed, and break clients that know one way of writing.
        raw = encode_event(data.replace(b"\n", b" "))
    output, finish, calls = False, None, False
    for choice in choices or ():
        delta = choice.delta
        if delta is not None:
            calls = calls or delta.tool_calls is not _NULL
            output = output or bytes(delta.content) not in _NOTHING or _has_output(delta)
        finish = finish or choice.finish_reason or None
    return Chunk(raw, output, usage, finish), calls


class _Calls:
    """The tool calls of one choice as they come in pieces.

    Clients join the pieces by `index`, which counts from 0, and take `id` and name from a call's first piece alone.
    Some servers leave the index out, give the same one to each call or count from elsewhere, give no id, or repeat
    it in each piece, or give each piece another, name and all.

    Args:
        seed: Ids that the server does not give come of it.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._ids: list[str] = []
        self._names: list[str] = []
        self._written: list[list[str]] = []
        """The pieces of each call's arguments."""
        self._places: dict[int, int] = {}
        """The server's index to the number of the call that it means now."""

    def amend(self, piece: dict[str, Any]) -> bool:
        """Put right what a piece says of its call, and return whether anything was wrong."""
        said = {**piece}
        function = piece.get("function") or {}
        index, id_, name = piece.get("index"), piece.get("id") or "", function.get("name") or ""
        last = len(self._ids) - 1
        if index is not None:
            number = self._places.get(index, last + 1)
        else:
            number = self._ids.index(id_) if id_ in self._ids else last
        begun = 0 <= number <= last
        if not begun or (name and id_ != self._ids[number] and (id_ or index is None) and self._over(number, name)):
            number = last + 1
            self._written.append([])
            self._ids.append(id_ or _call_id(f"{self._seed}/{number}"))
            self._names.append(name)
            piece["id"] = self._ids[number]
        elif id_ or index is None:
            # Clients add up what a later piece says.
            piece.pop("id", None)
            if name and name == self._names[number]:
                piece["function"] = {key: value for key, value in function.items() if key != "name"}
        if index is not None:
            self._places[index] = number
        if isinstance(arguments := function.get("arguments"), str):
            self._written[number].append(arguments)
        piece["index"] = number
        return said != piece

    def _over(self, number: int, name: str) -> bool:
        """Return whether a call is whole when a name comes: another's, or its own behind all its arguments."""
        if name != self._names[number]:
            return True
        try:
            msgspec.json.decode("".join(self._written[number]))
        except msgspec.DecodeError:
            return False
        return True


def _call_id(seed: str) -> str:
    return "call_" + hashlib.sha256(seed.encode()).hexdigest()[:24]


class ChatStream:
    """The events of one stream in the OpenAI dialect; a `Translation`.

    Args:
        reply_model: What chunks say in `model`; None keeps the backend's own.
        usage_asked: Whether the client wants the usage chunk.
        running: Whether it wants the usage beside choices too.
    """

    def __init__(self, reply_model: str | None, usage_asked: bool, running: bool = False) -> None:
        self._reply_model = reply_model
        self._usage_asked = usage_asked
        self._running = running
        self._finished = False
        self._spoke = False
        self._calls: dict[int, _Calls] = {}
        """The calls of each choice."""
        self._beside: bytes | None = None
        """An event with choices that told a usage which no event without choices has told since."""

    def feed(self, event: SSEEvent) -> tuple[Chunk, ...]:
        """Return the chunks for one event; see `completion_event`."""
        chunk, calls = _look(event, self._reply_model, self._usage_asked, self._running)
        if chunk.output:
            self._spoke = True
            if calls:
                chunk = self._told_apart(chunk)
            if chunk.finish_reason is None and chunk.usage is None:
                return (chunk,)
        if chunk.finish_reason is not None:
            if chunk.finish_reason == ABORTED:
                raise aborted()
            self._finished = True
        elif chunk.done and not (self._spoke or self._finished):
            raise UpstreamUnavailable("The backend ended its stream without an answer.")
        if chunk.usage is not None and self._usage_asked:
            data = event.data or b""
            self._beside = data if _CHUNK.decode(data).choices else None
        elif chunk.done and self._beside is not None:
            return (self._usage_chunk(self._beside), chunk)
        return (chunk,)

    def _told_apart(self, chunk: Chunk) -> Chunk:
        """Return a chunk whose pieces of calls say which call they belong to, unchanged where they do already."""
        changed = False
        try:
            whole = msgspec.json.decode(chunk.raw[6:])
            for choice in whole["choices"]:
                place = choice.get("index", 0)
                calls = self._calls.setdefault(place, _Calls(f"{whole.get('id')}/{place}"))
                for piece in choice["delta"].get("tool_calls") or ():
                    changed = calls.amend(piece) or changed
        except (msgspec.DecodeError, AttributeError, LookupError, TypeError):
            return chunk  # not of a shape that could be mended
        return msgspec.structs.replace(chunk, raw=encode_event(msgspec.json.encode(whole))) if changed else chunk

    def _usage_chunk(self, beside: bytes) -> Chunk:
        """Return the usage in an event of its own, as the protocol has it, taken from an event with choices."""
        beside, spans = index_fields(beside)
        raw = encode_event(splice(beside, [(*spans["choices"], b"[]")]).replace(b"\n", b" "))
        return Chunk(raw if self._reply_model is None else encode_event(with_model(raw[6:-2], self._reply_model)))

    def close(self) -> tuple[Chunk, ...]:
        """Return `[DONE]`: a server that ends its answer properly but forgets it has still answered.

        Raises:
            UpstreamUnavailable: The answer was not complete.
        """
        if not self._finished:
            raise UpstreamUnavailable("The backend closed the stream before its answer was complete.")
        end = Chunk(DONE, done=True)
        return (end,) if self._beside is None else (self._usage_chunk(self._beside), end)


def _rewritten(data: bytes, reply_model: str | None, *, has_choices: bool, tells_usage: bool) -> bytes:
    """Return the event as a wish or a strict client needs it."""
    data, spans = index_fields(data)
    if not spans:
        return b""
    splices = []
    if not has_choices:
        splices.append((*spans["choices"], b"[]") if "choices" in spans else insert_field(spans, "choices", b"[]"))
    if not tells_usage:
        splices.append((*spans["usage"], b"null"))
    if reply_model is not None and "model" in spans:
        splices.append((*spans["model"], msgspec.json.encode(reply_model)))
    return encode_event(splice(data, splices).replace(b"\n", b" "))


def _error_in(data: bytes) -> bytes | msgspec.Raw:
    """Return what an event named `error` holds, with or without an envelope."""
    try:
        error = _CHUNK.decode(data).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data if data.startswith(b"{") else msgspec.json.encode(data.decode("utf-8", "replace"))
    return data if error is _NULL else error


def _has_output(delta: _Delta) -> bool:
    """Return whether a delta says something beside `content`."""
    rest = (
        delta.tool_calls,
        delta.function_call,
        delta.refusal,
        delta.reasoning_content,
        delta.reasoning,
        delta.audio,
    )
    return any(value is not _NULL and bytes(value) not in _NOTHING for value in rest)
