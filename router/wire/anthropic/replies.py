"""Messages answers as chat answers, whole and streamed."""

from __future__ import annotations

from typing import Any

import msgspec

from router.types import Chunk, Completion
from router.wire.anthropic.reasons import finish_reason
from router.wire.anthropic.usage import Counts, chat_usage, merge_counts, read_counts, usage_of
from router.wire.failures import error_event
from shared.errors import UpstreamUnavailable
from shared.sse import DONE, SSEEvent, encode_event

__all__ = ["ReplyStream", "parse_reply"]

_NULL = msgspec.Raw(b"null")
_Broken = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _StopDetails(msgspec.Struct):
    explanation: str | None = None


class _Block(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = _NULL


class _Message(msgspec.Struct):
    id: str = ""
    model: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


_MESSAGE = msgspec.json.Decoder(_Message)
_EVENT = msgspec.json.Decoder(_Event)


def _arguments(block: _Block) -> str:
    """Return the arguments of a call as their maker wrote them."""
    raw = bytes(block.input)
    return "{}" if raw == b"null" else raw.decode()


def _signed(block: _Block) -> dict[str, str]:
    """Return a block of thinking in the form that the next turn must give back unchanged."""
    if block.type == "redacted_thinking":
        return {"type": block.type, "data": block.data}
    return {"type": block.type, "thinking": block.thinking, "signature": block.signature}


def parse_reply(body: bytes, model: str, reply_model: str | None, created: int) -> Completion:
    """Return a message as a chat completion.

    Args:
        body: The backend's answer.
        model: The deployment's model, said where the backend names none.
        reply_model: What the answer says in `model`; None keeps the backend's own.
        created: Unix seconds.

    Raises:
        UpstreamUnavailable: The body is no message.
        ServiceError: The body is an error in disguise.
    """
    try:
        message = _MESSAGE.decode(body)
    except _Broken as error:
        raise UpstreamUnavailable("The backend's answer is not a valid message.") from error
    if message.content is None:
        raise error_event(message.error)
    finish = finish_reason(message.stop_reason) or "stop"
    counts = read_counts(message.usage)
    whole = {
        "id": message.id,
        "object": "chat.completion",
        "created": created,
        "model": reply_model or message.model or model,
        "choices": [{"index": 0, "message": _said(message), "logprobs": None, "finish_reason": finish}],
        "usage": chat_usage(counts),
    }
    return Completion(msgspec.json.encode(whole), usage_of(counts), finish)


def _said(message: _Message) -> dict[str, Any]:
    blocks = message.content or []
    texts = [block.text for block in blocks if block.type == "text"]
    calls = [
        {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": _arguments(block)}}
        for block in blocks
        if block.type == "tool_use"
    ]
    thoughts = [block for block in blocks if block.type in ("thinking", "redacted_thinking")]
    details = message.stop_details if message.stop_reason == "refusal" else None
    said: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(texts) if texts or not calls else None,
        "refusal": details.explanation if details else None,
    }
    if thoughts:
        said["reasoning_content"] = "".join(block.thinking for block in thoughts)
        said["thinking_blocks"] = [_signed(block) for block in thoughts]
    if calls:
        said["tool_calls"] = calls
    return said


class ReplyStream:
    """Turns the events of a Messages stream into chat completion chunks; a `Translation`.

    Thinking is told as it comes, in `reasoning_content`, and once more as a whole with its signature, in
    `thinking_blocks`: that is what the next turn must give back.

    Args:
        model: The deployment's model, said where the backend names none.
        reply_model: What chunks say in `model`; None keeps the backend's own.
        created: Unix seconds.
        usage_asked: Whether the client wants the usage chunk.
    """

    def __init__(self, model: str, reply_model: str | None, created: int, usage_asked: bool) -> None:
        self._fixed_model = reply_model
        self._model = reply_model or model
        self._created = created
        self._usage_asked = usage_asked
        self._id = ""
        self._started = False
        self._stopped = False
        self._finish: str | None = None
        self._counts: Counts | None = None
        self._blocks: dict[int, _Block] = {}
        """The blocks that are open, by their index."""
        self._calls: dict[int, int] = {}
        """Index of a block to the number of the call that it is."""
        self._written: set[int] = set()
        """Calls that have got arguments."""
        self._thoughts: list[str] = []
        """What has been thought since the last block began."""

    def feed(self, event: SSEEvent) -> list[Chunk]:
        """Return the chunks for one event.

        Raises:
            ServiceError: The event is not valid, or says that the backend failed.
        """
        if event.data is None or not event.data.strip() or self._stopped:
            return []
        try:
            told = _EVENT.decode(event.data)
        except _Broken as error:
            if event.data.strip() == b"[DONE]":
                return []
            raise UpstreamUnavailable("The backend's stream holds an event that is not valid JSON.") from error
        kind = told.type
        if kind == "error" or bytes(told.error) != b"null":
            raise error_event(told.error)
        if kind == "message_start" and told.message is not None:
            return self._start(told.message)
        if kind == "content_block_start" and told.content_block is not None:
            return self._begin(told.index, told.content_block)
        if kind == "content_block_delta" and told.delta is not None:
            return self._add(told.index, told.delta)
        if kind == "content_block_stop":
            return self._end(told.index)
        if kind == "message_delta":
            self._counts = merge_counts(self._counts, read_counts(told.usage))
            return [] if told.delta is None else self._reason(told.delta)
        return self._stop() if kind == "message_stop" else []

    def close(self) -> list[Chunk]:
        """Return what ends a message that gave its reason to stop, where the bytes end without `message_stop`.

        Raises:
            UpstreamUnavailable: The bytes ended before the message did.
        """
        if self._stopped:
            return []
        if self._finish is None:
            raise UpstreamUnavailable("The backend closed the stream before its answer was complete.")
        return self._stop()

    def _start(self, message: _Message) -> list[Chunk]:
        self._id = self._id or message.id
        if message.model and self._fixed_model is None:
            self._model = message.model
        self._counts = read_counts(message.usage)
        return self._role()

    def _role(self) -> list[Chunk]:
        if self._started:
            return []
        self._started = True
        return [self._chunk({"role": "assistant", "content": ""})]

    def _begin(self, index: int, block: _Block) -> list[Chunk]:
        self._blocks[index] = block
        self._thoughts = [block.thinking]
        chunks = self._role()
        if block.type == "text" and block.text:
            chunks.append(self._chunk({"content": block.text}, output=True))
        elif block.type == "thinking" and block.thinking:
            chunks.append(self._chunk({"reasoning_content": block.thinking}, output=True))
        elif block.type == "tool_use":
            number = self._calls[index] = len(self._calls)
            function = {"name": block.name, "arguments": ""}
            call = {"index": number, "id": block.id, "type": "function", "function": function}
            chunks.append(self._chunk({"tool_calls": [call]}, output=True))
        return chunks

    def _add(self, index: int, delta: _Delta) -> list[Chunk]:
        chunks = self._role()
        block = self._blocks.get(index)
        if delta.type == "text_delta" and delta.text:
            chunks.append(self._chunk({"content": delta.text}, output=True))
        elif delta.type == "thinking_delta" and delta.thinking:
            self._thoughts.append(delta.thinking)
            chunks.append(self._chunk({"reasoning_content": delta.thinking}, output=True))
        elif delta.type == "signature_delta" and block is not None:
            block.signature += delta.signature
        elif delta.type == "input_json_delta" and delta.partial_json and index in self._calls:
            self._written.add(index)
            chunks.append(self._piece(index, delta.partial_json))
        return chunks

    def _end(self, index: int) -> list[Chunk]:
        block = self._blocks.pop(index, None)
        if block is None:
            return []
        if block.type == "tool_use" and index not in self._written:
            # Arguments that came with the beginning, or none: an empty text would be no JSON.
            return [self._piece(index, _arguments(block))]
        if block.type == "redacted_thinking" or (block.type == "thinking" and block.signature):
            block.thinking = "".join(self._thoughts)
            return [self._chunk({"thinking_blocks": [_signed(block)]})]
        return []

    def _reason(self, delta: _Delta) -> list[Chunk]:
        """Return the end of the choice, where this tells why it ended: a refusal with its explanation."""
        reason = delta.stop_reason
        if reason is None or self._finish is not None:
            return []
        self._finish = finish_reason(reason)
        chunks = self._role()
        details = delta.stop_details if reason == "refusal" else None
        if details is not None and details.explanation:
            chunks.append(self._chunk({"refusal": details.explanation}, output=True))
        return [*chunks, self._chunk({}, finish=self._finish)]

    def _piece(self, index: int, text: str) -> Chunk:
        return self._chunk(
            {"tool_calls": [{"index": self._calls[index], "function": {"arguments": text}}]}, output=True
        )

    def _stop(self) -> list[Chunk]:
        if not self._started:
            raise UpstreamUnavailable("The backend ended its stream without an answer.")
        self._stopped = True
        chunks: list[Chunk] = []
        if self._finish is None:
            chunks.append(self._chunk({}, finish="stop"))
        usage = usage_of(self._counts)
        if self._usage_asked and usage is not None:
            whole = self._head([]) | {"usage": chat_usage(self._counts)}
            chunks.append(Chunk(encode_event(msgspec.json.encode(whole)), usage=usage))
        elif usage is not None:
            chunks.append(Chunk(b"", usage=usage))
        return [*chunks, Chunk(DONE, done=True)]

    def _head(self, choices: list[Any]) -> dict[str, Any]:
        head: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
        if self._usage_asked:
            head["usage"] = None
        return head

    def _chunk(self, delta: dict[str, Any], *, output: bool = False, finish: str | None = None) -> Chunk:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return Chunk(encode_event(msgspec.json.encode(self._head([choice]))), output, None, finish)
