"""Chat answers as Messages answers, whole and as the events of a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from router.wire.anthropic.reasons import stop_reason
from router.wire.anthropic.usage import messages_usage
from shared.errors import UpstreamUnavailable
from shared.sse import encode_event

__all__ = ["Asked", "EventWriter", "message_of"]

_NULL = msgspec.Raw(b"null")
_UNSIGNED = {"type": "thinking", "signature": ""}
_Words = Literal["text", "thinking"]
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_Broken = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Asked(NamedTuple):
    """What of the request the answer depends on."""

    id: str
    model: str
    prompt_tokens: int
    """An estimate, for a backend that does not count."""
    stops: tuple[str, ...] = ()
    thinking: bool = True
    """Whether the client wants to see what was thought."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, msgspec.Raw] | None = None

    @property
    def written(self) -> str:
        """The arguments, or a piece of them; some servers tell them as the object that they are to spell."""
        given = self.arguments
        return (given or "") if not isinstance(given, dict) else msgspec.json.encode(given).decode()


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Part(msgspec.Struct):
    """A part of what is said by servers that tell it in parts: text, or thinking that is parts in its turn."""

    text: str | None = None
    thinking: list[_Part] | str | None = None


class _Said(msgspec.Struct):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None

    def texts(self, *, thinking: bool) -> Iterator[tuple[_Words, str]]:
        """Yield what is said in words, each with its kind.

        Args:
            thinking: Whether what was thought is wanted.
        """
        thought = self.reasoning_content or self.reasoning
        if thought and thinking:
            yield "thinking", thought
        for part in [_Part(self.content)] if isinstance(self.content, str) else self.content or ():
            inner = part.thinking
            thought = inner if isinstance(inner, str) else "".join(one.text or "" for one in inner or ())
            if thought and thinking:
                yield "thinking", thought
            if part.text:
                yield "text", part.text
        if self.refusal:
            yield "text", self.refusal


class _Choice(msgspec.Struct):
    index: int | None = 0
    message: _Said | None = None
    delta: _Said | None = None
    finish_reason: str | None = None
    stop_reason: msgspec.Raw = _NULL
    """vLLM's: the stop string that ended the answer."""


class _Answer(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = _NULL


_ANSWER = msgspec.json.Decoder(_Answer)


def _head(asked: Asked, model: str | None) -> dict[str, Any]:
    return {"id": f"msg_{asked.id}", "type": "message", "role": "assistant", "model": model or asked.model}


def _stop_sequence(choice: _Choice, asked: Asked) -> str | None:
    if choice.stop_reason is _NULL or not asked.stops:
        return None
    said = msgspec.json.decode(choice.stop_reason)
    return said if said in asked.stops else None


def _is_object(text: str) -> bool:
    try:
        _OBJECT.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _input(arguments: str) -> Any:
    """Return a call's arguments as an object; what is none is kept, under a name of ours."""
    if not arguments.strip():
        return {}
    return msgspec.Raw(arguments.encode()) if _is_object(arguments) else {"arguments": arguments}


def _estimate(text: int) -> int:
    return -(-text // 4)


def message_of(completion: bytes, asked: Asked) -> bytes:
    """Return a chat completion as a message.

    Raises:
        UpstreamUnavailable: It is no chat completion.
    """
    try:
        answer = _ANSWER.decode(completion)
        choice = (answer.choices or [])[0]
        stop = _stop_sequence(choice, asked)
    except (*_Broken, IndexError) as error:
        raise UpstreamUnavailable("The backend's answer is not a valid chat completion.") from error
    said = choice.message or _Said()
    content: list[dict[str, Any]] = []
    written = 0
    for kind, text in said.texts(thinking=asked.thinking):
        written += len(text.encode())
        if not content or content[-1]["type"] != kind:
            content.append({"type": "text", "text": ""} if kind == "text" else {**_UNSIGNED, "thinking": ""})
        content[-1][kind] += text
    calls = said.tool_calls or []
    for number, call in enumerate(calls):
        function = call.function or _Function()
        written += len(function.written.encode())
        content.append(
            {
                "type": "tool_use",
                "id": call.id or f"toolu_{asked.id}_{number}",
                "name": function.name or "",
                "input": _input(function.written),
            }
        )
    usage = messages_usage(answer.usage) or _guess(asked, written)
    reason = stop_reason(choice.finish_reason, tools=bool(calls), refused=bool(said.refusal))
    return msgspec.json.encode(
        {
            **_head(asked, answer.model),
            "content": content,
            "stop_reason": reason if stop is None else "stop_sequence",
            "stop_sequence": stop,
            "usage": usage,
        }
    )


def _guess(asked: Asked, written: int) -> dict[str, Any]:
    return {
        "input_tokens": asked.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": _estimate(written),
    }


class _Block:
    """A block of the message to be: what it is, and the pieces of it that wait for those before it."""

    __slots__ = ("id", "kind", "name", "number", "waiting", "written")

    def __init__(self, kind: Literal["text", "thinking", "tool_use"], number: int = -1) -> None:
        self.kind = kind
        self.number = number
        """Of a call: which one, by the backend's count."""
        self.id = ""
        self.name = ""
        self.waiting: list[str] = []
        self.written: list[str] = []
        """Of a call: the arguments so far, which tell when they are whole."""

    def whole(self) -> bool:
        """Return whether nothing more is to be expected of the block once another one begins."""
        return self.kind != "tool_use" or _is_object("".join(self.written))


class EventWriter:
    """Turns the chunks of a chat stream into the events of a Messages stream.

    Blocks follow each other there, so a piece of a later one waits until the one before is whole: a backend may mix
    the arguments of several calls.

    Args:
        asked: What the answer depends on.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._out: list[bytes] = []
        self._started = False
        self._open: _Block | None = None
        self._queue: list[_Block] = []
        self._calls: dict[int, _Block] = {}
        self._index = -1
        self._finish: str | None = None
        self._stop: str | None = None
        self._refused = False
        self._usage: dict[str, Any] | None = None
        self._size = 0
        self._ended = False

    def feed(self, data: bytes) -> bytes:
        """Return the events for one chunk's JSON, perhaps none.

        Raises:
            UpstreamUnavailable: It is no chunk.
        """
        try:
            chunk = _ANSWER.decode(data)
        except _Broken as error:
            raise UpstreamUnavailable("The backend's stream holds an event that is not valid.") from error
        self._start(chunk.model)
        for choice in chunk.choices or ():
            if choice.index:
                continue
            self._say(choice.delta or _Said())
            if choice.finish_reason:
                self._finish = self._finish or choice.finish_reason
                self._stop = self._stop or _stop_sequence(choice, self._asked)
        self._usage = messages_usage(chunk.usage) or self._usage if bytes(chunk.usage) != b"null" else self._usage
        return self._taken()

    def end(self) -> bytes:
        """Return the events that end the message."""
        if self._ended:
            return b""
        self._ended = True
        self._start(None)
        self._advance(final=True)
        self._close()
        usage = self._usage or _guess(self._asked, self._size)
        reason = stop_reason(self._finish, tools=bool(self._calls), refused=self._refused)
        delta = {"stop_reason": reason if self._stop is None else "stop_sequence", "stop_sequence": self._stop}
        self._write("message_delta", delta=delta, usage=usage)
        self._write("message_stop")
        return self._taken()

    def _taken(self) -> bytes:
        out, self._out = self._out, []
        return b"".join(out)

    def _write(self, kind: str, **fields: Any) -> None:
        self._out.append(encode_event(msgspec.json.encode({"type": kind, **fields}), kind))

    def _start(self, model: str | None) -> None:
        if self._started:
            return
        self._started = True
        usage = _guess(self._asked, 0)
        message = {**_head(self._asked, model), "content": [], "stop_reason": None, "stop_sequence": None}
        self._write("message_start", message={**message, "usage": usage})

    def _say(self, said: _Said) -> None:
        for kind, text in said.texts(thinking=self._asked.thinking):
            self._text(kind, text)
        self._refused = self._refused or bool(said.refusal)
        for call in said.tool_calls or ():
            self._call(call)
        self._advance()

    def _text(self, kind: _Words, text: str) -> None:
        self._size += len(text.encode())
        last = self._queue[-1] if self._queue else self._open
        if last is None or last.kind != kind:
            last = _Block(kind)
            self._queue.append(last)
        last.waiting.append(text)

    def _call(self, call: _Call) -> None:
        function = call.function or _Function()
        number = call.index
        if number is None:
            # Some servers count no calls: one with a name is the next one.
            number = len(self._calls) if function.name or not self._calls else max(self._calls)
        block = self._calls.get(number)
        if block is None:
            block = self._calls[number] = _Block("tool_use", number)
            self._queue.append(block)
        block.id = block.id or call.id or ""
        block.name = block.name or function.name or ""
        if written := function.written:
            self._size += len(written.encode())
            block.waiting.append(written)
            block.written.append(written)

    def _advance(self, *, final: bool = False) -> None:
        """Write what can be written: the pieces of the open block, and those behind it once it is whole."""
        while True:
            if self._open is not None:
                self._flush(self._open)
            if not self._queue or not (final or self._open is None or self._open.whole()):
                return
            if not (final or self._queue[0].name or self._queue[0].kind != "tool_use"):
                return  # a call begins with its name
            self._close()
            self._begin(self._queue.pop(0))

    def _begin(self, block: _Block) -> None:
        self._open = block
        self._index += 1
        shapes: dict[str, Callable[[], dict[str, Any]]] = {
            "text": lambda: {"text": ""},
            "thinking": lambda: {"thinking": "", "signature": ""},
            "tool_use": lambda: {
                "id": block.id or f"toolu_{self._asked.id}_{block.number}",
                "name": block.name,
                "input": {},
            },
        }
        shape = {"type": block.kind, **shapes[block.kind]()}
        self._write("content_block_start", index=self._index, content_block=shape)

    def _flush(self, block: _Block) -> None:
        if not block.waiting:
            return
        text, block.waiting = "".join(block.waiting), []
        delta = {
            "text": {"type": "text_delta", "text": text},
            "thinking": {"type": "thinking_delta", "thinking": text},
            "tool_use": {"type": "input_json_delta", "partial_json": text},
        }
        self._write("content_block_delta", index=self._index, delta=delta[block.kind])

    def _close(self) -> None:
        if self._open is not None:
            self._write("content_block_stop", index=self._index)
            self._open = None
