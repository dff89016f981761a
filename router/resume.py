"""Continuing a cut stream elsewhere: what was delivered, how to ask for the rest, and the joint between the two.

A candidate with the capability `prefill` continues the delivered text, given as the beginning of the
assistant's turn. Any other answers from the start, and what it says is passed on only from where the delivered
text ends, once it has said the same up to there, character for character.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import structs

from router.types import Candidate, Chunk, Event, InferenceRequest, Usage
from router.wire.fields import index_fields, raw_fields
from shared.sse import DONE, encode_event

__all__ = ["Joint", "Story", "resumable"]

_MOST = 4 * 1024 * 1024
"""Bytes of a stream that are kept; a longer one ends where its backend does."""
_SAID = ("content", "reasoning_content", "reasoning")
_BRIEF = ("id", "created", "model")
_NULL, _MISSING = msgspec.Raw(b"null"), msgspec.Raw(b"")
_NOTHING = (b"null", b'""', b"[]", b"{}")
_TELLING_KINDS = (b'"', b"[", b"{")
"""What begins like these says something; a number or a flag beside it does not."""
_GUIDES = ("structured_outputs", "json_schema", "grammar", "regex", "ebnf")
"""What servers call a grammar of the whole answer, besides vLLM's `guided_*`: the rest of an answer has another."""
_TELLING = 8
"""Characters from which on a text that comes again is no accident."""


class _Source(Protocol):
    """An attempt, as far as a joint looks at it."""

    head: Sequence[Event]

    async def more(self) -> Sequence[Event]:
        """Return the answer's next events."""
        ...


def resumable(request: InferenceRequest, candidate: Candidate, *, others: bool) -> bool:
    """Return whether a stream might be continued if it breaks, so that what it says is worth keeping.

    A JSON answer or one of several choices is not: nobody could say where it broke off.

    Args:
        request: A chat request.
        candidate: Who answers.
        others: Whether somebody else may answer too.
    """
    if request.endpoint != "chat" or request.choices > 1 or not request.wishes.fallback:
        return False
    return (others or _can_continue(candidate)) and "json_schema" not in request.needs


def _events(raw: bytes) -> Iterator[bytes]:
    """Yield the data of the events in a piece of a chat stream; adapters write each in one line."""
    for event in raw.split(b"\n\n"):
        if event.startswith(b"data:"):
            yield event[5:].strip()


class _Choice(msgspec.Struct):
    delta: dict[str, msgspec.Raw] | None = None
    finish_reason: Any = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    id: msgspec.Raw = _MISSING
    created: msgspec.Raw = _MISSING
    model: msgspec.Raw = _MISSING


_EVENT = msgspec.json.Decoder(_Event)
_TEXT: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)


class _Delivered:
    """What a chat stream has said."""

    def __init__(self) -> None:
        self.brief: dict[str, Any] = {}
        """What all chunks have in common."""
        self.pieces = 0
        self.other = False
        """Whether it said something that nobody can continue: a tool call, a refusal, what only its server knows."""
        self.finished = False
        self._said: dict[str, list[str]] = {}

    @property
    def said(self) -> dict[str, str]:
        """Field of the delta to the text in it so far."""
        return {name: "".join(texts) for name, texts in self._said.items()}

    def add(self, raw: bytes) -> list[tuple[str, str]]:
        """Read a piece of the stream, and return what it says: each field of a delta, and the text in it."""
        news: list[tuple[str, str]] = []
        for data in _events(raw):
            if data == b"[DONE]":
                self.finished = True
                continue
            event = _EVENT.decode(data)
            if not event.choices:
                continue
            if not self.brief:
                told = ((name, getattr(event, name)) for name in _BRIEF)
                self.brief = {name: value for name, value in told if value is not _MISSING}
            choice = event.choices[0]
            self.finished = self.finished or bool(choice.finish_reason)
            for name, raw_value in (choice.delta or {}).items():
                value = bytes(raw_value)
                if name in _SAID and value.startswith(b'"'):
                    news += [(name, text)] if (text := _TEXT.decode(value)) else []
                elif name != "role" and value not in _NOTHING and value.startswith(_TELLING_KINDS):
                    self.other = True
        for name, text in news:
            self._said.setdefault(name, []).append(text)
        self.pieces += len(news)
        return news


class Story:
    """What of one chat stream has been delivered.

    Args:
        request: What was asked, as a chat request.
    """

    def __init__(self, request: InferenceRequest) -> None:
        self._request = request
        self._raws: list[bytes] = []
        self._room = _MOST
        self._read = _Delivered()

    def keep(self, events: Sequence[Event]) -> None:
        """Keep what is handed to the client."""
        for event in events:
            if isinstance(event, Chunk):
                self._room -= len(event.raw)
                self._raws.append(event.raw)
        if self._room < 0:
            self._raws.clear()

    def beside(self, take: Callable[[Sequence[Event]], bool]) -> Callable[[Sequence[Event]], bool]:
        """Return what keeps each piece of a stream and hands it to `take`, for as little as that can cost."""
        raws = self._raws

        def told(events: Sequence[Event]) -> bool:
            for event in events:  # chunks all; to say so with a cast would be a call for each
                raws.append(raw := event.raw)  # type: ignore[union-attr]
                self._room -= len(raw)
            if self._room < 0:
                raws.clear()
            return take(events)

        return told

    @property
    def _delivered(self) -> _Delivered:
        if self._raws:
            self._read.add(b"".join(self._raws))
            self._raws.clear()
        return self._read

    @property
    def open(self) -> bool:
        """Whether somebody else could say the rest."""
        return self._room >= 0 and not (self._delivered.other or self._delivered.finished)

    @property
    def finished(self) -> bool:
        """Whether all that is missing is the stream's end."""
        return self._room >= 0 and self._delivered.finished

    @property
    def pieces(self) -> int:
        """How many pieces of text were delivered: about as many tokens."""
        return self._delivered.pieces if self._room >= 0 else 0

    def joint(self, candidate: Candidate, *, prefill: bool) -> Joint:
        """Return how a candidate's answer is joined to the story.

        Args:
            candidate: Who is to go on.
            prefill: Whether it may be asked to continue the text, if it says that it can.
        """
        delivered = self._delivered
        if prefill and _can_continue(candidate) and [*delivered.said] == ["content"]:
            request = _continuation(self._request, delivered.said["content"], delivered.pieces)
            if request is not None:
                return Joint(request, delivered, continues=True)
        return Joint(self._request, delivered, continues=False)


def _can_continue(candidate: Candidate) -> bool:
    """Return whether a candidate can be handed the beginning of its answer."""
    backend = candidate.deployment.backend
    payload_alone = backend.dialect == "local_agent" and not backend.accepts_messages
    return "prefill" in candidate.model.capabilities and not payload_alone


def _continuation(request: InferenceRequest, text: str, tokens: int) -> InferenceRequest | None:
    """Return the request for what follows on `text`; None where it cannot be told from the client's own words.

    vLLM's `continue_final_message` is how an OpenAI-style request says that its last turn is not over.
    """
    fields: dict[str, Any] = dict(raw_fields(request.body))
    if any(name in _GUIDES or name.startswith("guided_") for name in fields):
        return None
    turns = msgspec.json.decode(fields["messages"], type=list[msgspec.Raw])
    if msgspec.json.decode(turns[-1]).get("role") == "assistant":
        return None
    fields["messages"] = [*turns, {"role": "assistant", "content": text}]
    fields |= {"continue_final_message": True, "add_generation_prompt": False}
    left = request.max_tokens
    if left is not None:
        left -= tokens
        if left < 1:
            return None
        fields |= {name: left for name in ("max_tokens", "max_completion_tokens") if name in fields}
    body, spans = index_fields(msgspec.json.encode(fields))
    return structs.replace(request, body=body, spans=spans, max_tokens=left)


class Joint:
    """Makes one answer of what was delivered and what somebody else says.

    Args:
        request: What to ask.
        delivered: What the client has.
        continues: Whether the answer begins where the delivered text ends.
    """

    def __init__(self, request: InferenceRequest, delivered: _Delivered, *, continues: bool) -> None:
        self.request = request
        self.continues = continues
        self._brief = delivered.brief
        self._said = delivered.said
        self._tokens = delivered.pieces if continues else 0
        self._owed = {} if continues else {name: len(text) for name, text in delivered.said.items()}
        """Field of the delta to how many characters of it the client has already."""

    async def meets(self, source: _Source) -> bool:
        """Return whether an answer goes on where the delivered text ends; reads as far as it takes to tell.

        Raises:
            ServiceError: The backend failed.
        """
        return await (self._continues(source) if self.continues else self._repeats(source))

    async def _repeats(self, source: _Source) -> bool:
        """Return whether an answer says the same again, up to where the delivered text ends."""
        gathered: list[Event] = []
        again, heard = _Delivered(), dict.fromkeys(self._said, 0)
        while events := await source.more():
            gathered += events
            for name, text in _news(again, events):
                before, start = self._said.get(name), heard.get(name, 0)
                if before is None:
                    if name != "content":
                        return False
                    continue
                if before[start : start + len(text)] != text[: len(before) - start]:
                    return False
                heard[name] = min(start + len(text), len(before))
            if all(heard[name] == len(text) for name, text in self._said.items()):
                source.head = gathered
                return True
            if again.finished or again.other:
                return False
        return False

    async def _continues(self, source: _Source) -> bool:
        """Return True, and what to leave out of the answer of a backend that was asked to continue and starts over."""
        (name, before), *_ = self._said.items()
        if len(before) < _TELLING or before in (before + before)[1:-1]:
            return True  # a text that repeats itself may well do so once more
        gathered: list[Event] = []
        again, heard = _Delivered(), 0
        while heard < len(before) and not again.finished and (events := await source.more()):
            gathered += events
            text = "".join(text for _, text in _news(again, events))
            if before[heard : heard + len(text)] != text[: len(before) - heard]:
                break
            heard += len(text)
        if heard >= len(before):
            self._owed, self._tokens = {name: len(before)}, 0
        source.head = gathered
        return True

    def feed(self, chunk: Chunk) -> Chunk:
        """Return a chunk as part of the one answer: without what the client has, under the first part's name."""
        raws: list[bytes] = []
        usage = chunk.usage
        if usage is not None and self._tokens:
            usage = self._whole(usage)
        for data in _events(chunk.raw):
            if data == b"[DONE]":
                raws.append(DONE)
            elif (told := self._joined(msgspec.json.decode(data), usage)) is not None:
                raws.append(encode_event(msgspec.json.encode(told)))
        return structs.replace(chunk, raw=b"".join(raws), usage=usage)

    def _whole(self, usage: Usage) -> Usage:
        """Return the usage of both parts, as one answer would have had it."""
        return structs.replace(
            usage,
            prompt_tokens=max(0, usage.prompt_tokens - self._tokens),
            completion_tokens=usage.completion_tokens + self._tokens,
            cached_tokens=min(usage.cached_tokens, max(0, usage.prompt_tokens - self._tokens)),
            source="estimated",
        )

    def _joined(self, event: Any, usage: Usage | None) -> Any | None:
        if not isinstance(event, dict):
            return event
        event |= self._brief
        if usage is not None and isinstance(event.get("usage"), dict) and self._tokens:
            event["usage"] |= usage.openai()
        choice: dict[str, Any] = (event.get("choices") or ({},))[0]
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return event
        delta.pop("role", None)
        for name in _SAID:
            text = delta.get(name)
            if isinstance(text, str):
                owed = self._owed.get(name, 0)
                self._owed[name] = max(0, owed - len(text))
                if owed and name == "content" and isinstance(tokens := choice.get("logprobs"), dict):
                    choice["logprobs"] = _behind(tokens, owed)
                delta[name] = text[owed:]
                if not delta[name]:
                    del delta[name]
        silent = not any(value is not None for value in delta.values()) and choice.get("finish_reason") is None
        return None if silent and event.get("usage") is None else event


def _news(delivered: _Delivered, events: Sequence[Event]) -> list[tuple[str, str]]:
    """Return what events say, and let it be kept."""
    return delivered.add(b"".join([event.raw for event in events if isinstance(event, Chunk)]))


def _behind(logprobs: dict[str, Any], owed: int) -> dict[str, Any]:
    """Return the log probabilities without those of the first characters."""
    tokens = logprobs.get("content")
    if not isinstance(tokens, list):
        return logprobs
    kept = list(tokens)
    while kept and isinstance(kept[0], dict) and len(str(kept[0].get("token"))) <= owed:
        owed -= len(str(kept.pop(0).get("token")))
    return {**logprobs, "content": kept}
