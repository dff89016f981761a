"""What a response takes from a chat answer, whole or in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from shared.errors import UpstreamUnavailable

__all__ = ["Call", "Chat", "Choice", "Delta", "read_chat"]

_NULL = msgspec.Raw(b"null")
_TEXT = msgspec.json.Decoder(str)


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, msgspec.Raw] | None = None


class Call(msgspec.Struct):
    """A call of a function, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None

    @property
    def named(self) -> str:
        """The function's name, where it is in this piece."""
        return (self.function.name or "") if self.function else ""

    @property
    def said(self) -> str:
        """The arguments in this piece; some servers tell them as the object that they are to spell."""
        arguments = self.function.arguments if self.function else None
        return arguments or "" if not isinstance(arguments, dict) else msgspec.json.encode(arguments).decode()


class Delta(msgspec.Struct):
    """What is said: in a chunk, or in a whole message."""

    content: msgspec.Raw = _NULL
    refusal: str | None = None
    reasoning_content: msgspec.Raw = _NULL
    reasoning: msgspec.Raw = _NULL
    tool_calls: list[Call] | None = None
    annotations: list[Any] | None = None

    @property
    def text(self) -> str:
        """The text; some servers tell it in parts."""
        raw = bytes(self.content)
        return "".join(_words(raw, "text")) if raw.startswith(b"[") else _string(raw)

    @property
    def thought(self) -> str:
        """The reasoning, which servers tell under either name, under both, or in parts of the content."""
        told = _string(bytes(self.reasoning_content)) or _string(bytes(self.reasoning))
        raw = bytes(self.content)
        return told or ("".join(_words(raw, "thinking")) if raw.startswith(b"[") else "")


class _Logprobs(msgspec.Struct):
    content: list[msgspec.Raw] | None = None


class Choice(msgspec.Struct):
    """One choice."""

    index: int | None = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None

    @property
    def tokens(self) -> Sequence[msgspec.Raw]:
        """The log probabilities of the text's tokens."""
        return (self.logprobs.content or ()) if self.logprobs else ()


class Chat(msgspec.Struct):
    """A completion, or a chunk of one."""

    created: Any = None
    model: Any = None
    choices: list[Choice] | None = None
    service_tier: Any = None


_CHAT = msgspec.json.Decoder(Chat)


def read_chat(data: bytes) -> Chat:
    """Return a chat answer, or a chunk of one.

    Raises:
        UpstreamUnavailable: It is none.
    """
    try:
        return _CHAT.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UpstreamUnavailable("The backend's answer is not a valid chat completion.") from error


def _words(parts: bytes, kind: str) -> Iterator[str]:
    """Yield what parts say in words of one kind: a text, or a list of texts."""
    for part in msgspec.json.decode(parts):
        words = part.get(kind) if isinstance(part, dict) else None
        for one in words if isinstance(words, list) else [words]:
            said = one.get("text") if isinstance(one, dict) else one
            if isinstance(said, str):
                yield said


def _string(raw: bytes) -> str:
    return _TEXT.decode(raw) if raw.startswith(b'"') else ""
