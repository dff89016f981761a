"""A chat answer as a response: its object, and the events that tell how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from router.types import InferenceRequest, Usage
from router.wire.fields import raw_fields
from router.wire.responses.chat import Call, Chat, Choice, Delta
from router.wire.responses.echo import echo, response_id
from router.wire.responses.messages import CUSTOM_FIELD
from router.wire.responses.tools import Toolbox
from shared.sse import encode_event

__all__ = ["Answer"]

_FIELD = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text"}
"""What holds the text of each kind of part."""
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class _Speech:
    """An item that is being told: a message or the reasoning before it."""

    def __init__(self, index: int, item: dict[str, Any]) -> None:
        self.index = index
        self.item = item
        self.kind: str | None = None
        """Of the part that is being told; None where there is none."""
        self.pieces: list[str] = []
        self.logprobs: list[msgspec.Raw] = []
        self.annotations: list[Any] = []

    @property
    def parts(self) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = self.item["content"]
        return parts


class _Called:
    """A call of a tool that is being told; it has an item once its name is known."""

    def __init__(self, call_id: str | None) -> None:
        self.call_id = call_id
        self.name = ""
        self.pieces: list[str] = []
        self.index = -1
        self.item: dict[str, Any] | None = None


class Answer:
    """Builds one response out of a chat answer, whole or in pieces.

    Args:
        request: What the client asked for.
        toolbox: What is to be known of the functions that are called.
        told: Whether events are wanted.
    """

    def __init__(self, request: InferenceRequest, toolbox: Toolbox, *, told: bool) -> None:
        self._id = response_id(request.id)
        self._echo = echo(raw_fields(request.body))
        self._toolbox = toolbox
        self._told = told
        self._events: list[bytes] = []
        self._sequence = 0
        self._head: dict[str, Any] | None = None
        self._output: list[dict[str, Any]] = []
        self._speech: _Speech | None = None
        self._calls: dict[int, _Called] = {}
        self._finish: str | None = None
        self._finished = False
        self._service_tier: str | None = None
        self.usage: Usage | None = None

    # --- what the chat says -------------------------------------------------------------------------

    def take(self, chat: Chat) -> None:
        """Take a whole answer, or a chunk of one."""
        self._service_tier = chat.service_tier or self._service_tier
        if self._head is None:
            created = chat.created if isinstance(chat.created, (int, float)) else 0
            self._head = {"created_at": int(created), "model": chat.model or ""}
            self._tell("response.created", response=self.response("in_progress"))
            self._tell("response.in_progress", response=self.response("in_progress"))
        elif chat.model and not self._head["model"]:
            self._head["model"] = chat.model
        for choice in chat.choices or ():
            if choice.index in (0, None):
                self._choice(choice)

    def _choice(self, choice: Choice) -> None:
        if choice.delta is not None:
            self._delta(choice.delta, choice.tokens)
        if choice.message is not None:
            self._delta(choice.message, choice.tokens, whole=True)
        if choice.finish_reason:
            self._end_items(choice.finish_reason)

    def _delta(self, delta: Delta, logprobs: Sequence[msgspec.Raw], *, whole: bool = False) -> None:
        if reasoning := delta.thought:
            self._say("reasoning_text", reasoning)
        if text := delta.text:
            self._say("output_text", text, logprobs)
        if delta.annotations:
            self._annotate(delta.annotations)
        if delta.refusal:
            self._say("refusal", delta.refusal)
        for position, call in enumerate(delta.tool_calls or ()):
            self._call(call, position if whole else None)

    def finish(self) -> dict[str, Any]:
        """End the answer; return the response."""
        self._end_items("stop")
        if self._head is None:
            self.take(Chat())
        status = "incomplete" if self._finish in _INCOMPLETE else "completed"
        response = self.response(status)
        self._tell(f"response.{status}", response=response)
        return response

    def events(self) -> bytes:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return b"".join(events)

    # --- what the response tells --------------------------------------------------------------------

    def response(self, status: str) -> dict[str, Any]:
        """Return the response as far as it has come."""
        ended = status != "in_progress"
        reason = _INCOMPLETE.get(self._finish or "")
        given: dict[str, Any] = {
            "id": self._id,
            "object": "response",
            **(self._head or {}),
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": reason} if ended and reason else None,
            "output": list(self._output) if ended else [],
            "usage": _usage(self.usage) if ended else None,
        }
        whole = {**given, **self._echo}
        if self._service_tier is not None:
            whole["service_tier"] = self._service_tier
        return whole

    def _tell(self, kind: str, **fields: Any) -> None:
        if self._told:
            event = {"type": kind, "sequence_number": self._sequence, **fields}
            data = msgspec.json.encode(event)
            if b"\n" in data:
                data = msgspec.json.format(data, indent=-1)  # what was asked may be written over several lines
            self._events.append(encode_event(data, kind))
            self._sequence += 1

    def _open(self, prefix: str, kind: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """Begin an item and return where it stands."""
        index = len(self._output)
        item = {"id": f"{prefix}_{self._id[5:]}-{index}", "type": kind, "status": "in_progress", **fields}
        self._output.append(item)
        self._tell("response.output_item.added", output_index=index, item=item)
        return index, item

    # --- texts --------------------------------------------------------------------------------------

    def _say(self, kind: str, piece: str, logprobs: Sequence[msgspec.Raw] = ()) -> None:
        speech = self._speech_for(kind)
        if speech.kind != kind:
            self._end_part(speech)
            speech.kind = kind
            self._tell("response.content_part.added", **_place(speech), part=_part(kind, ""))
        speech.pieces.append(piece)
        speech.logprobs += logprobs
        more = {"logprobs": list(logprobs)} if kind == "output_text" else {}
        self._tell(f"response.{kind}.delta", **_place(speech), delta=piece, **more)

    def _speech_for(self, kind: str) -> _Speech:
        wanted = "reasoning" if kind == "reasoning_text" else "message"
        speech = self._speech
        if speech is None or speech.item["type"] != wanted:
            self._end_speech("completed")
            if wanted == "reasoning":
                opened = self._open("rs", "reasoning", summary=[], content=[], encrypted_content=None)
            else:
                opened = self._open("msg", "message", role="assistant", content=[])
            speech = self._speech = _Speech(*opened)
        return speech

    def _annotate(self, annotations: Sequence[Any]) -> None:
        speech = self._speech
        if speech is None or speech.kind != "output_text":
            return
        for annotation in map(_flat, annotations):
            place = {**_place(speech), "annotation_index": len(speech.annotations)}
            speech.annotations.append(annotation)
            self._tell("response.output_text.annotation.added", **place, annotation=annotation)

    def _end_part(self, speech: _Speech) -> None:
        kind = speech.kind
        if kind is None:
            return
        text = "".join(speech.pieces)
        part = _part(kind, text, speech.logprobs, speech.annotations)
        more = {"logprobs": speech.logprobs} if kind == "output_text" else {}
        self._tell(f"response.{kind}.done", **_place(speech), **{_FIELD[kind]: text}, **more)
        self._tell("response.content_part.done", **_place(speech), part=part)
        speech.parts.append(part)
        speech.kind, speech.pieces, speech.logprobs, speech.annotations = None, [], [], []

    def _end_speech(self, status: str) -> None:
        speech, self._speech = self._speech, None
        if speech is not None:
            self._end_part(speech)
            speech.item["status"] = status
            self._tell("response.output_item.done", output_index=speech.index, item=speech.item)

    # --- calls of tools -----------------------------------------------------------------------------

    def _call(self, part: Call, position: int | None) -> None:
        index = position if position is not None else part.index
        if index is None:
            # Servers that do not count tell a new call by its id or name.
            index = len(self._calls) if part.id or part.named or not self._calls else max(self._calls)
        called = self._calls.get(index)
        if called is not None and part.id and called.call_id not in (None, part.id) and part.named:
            # One that counts every call as the first.
            index = max(self._calls) + 1
            called = None
        if called is None:
            self._end_speech("completed")
            called = self._calls[index] = _Called(part.id)
        called.call_id = called.call_id or part.id
        called.name = called.name or part.named
        if part.said:
            called.pieces.append(part.said)
        if called.item is not None:
            self._argue(called, part.said)
        elif called.name:
            self._begin(called)

    def _begin(self, called: _Called) -> None:
        call_id = called.call_id or f"call_{self._id[5:]}{len(self._output)}"
        named = {"call_id": call_id, "name": called.name}
        if called.name in self._toolbox.spaced:
            named["namespace"], named["name"] = self._toolbox.spaced[called.name]
        if called.name in self._toolbox.custom:
            called.index, called.item = self._open("ctc", "custom_tool_call", **named, input="")
        else:
            called.index, called.item = self._open("fc", "function_call", **named, arguments="")
            self._argue(called, "".join(called.pieces))

    def _argue(self, called: _Called, piece: str) -> None:
        assert called.item is not None
        if piece and called.item["type"] == "function_call":
            place = {"item_id": called.item["id"], "output_index": called.index}
            self._tell("response.function_call_arguments.delta", **place, delta=piece)

    def _end_call(self, called: _Called, status: str) -> None:
        if called.item is None:
            self._begin(called)
        item = called.item
        assert item is not None
        place = {"item_id": item["id"], "output_index": called.index}
        said = "".join(called.pieces)
        if item["type"] == "custom_tool_call":
            # The text stands within the JSON of a function's arguments: it is told once that is whole.
            item["input"] = free = _free_text(said)
            if free:
                self._tell("response.custom_tool_call_input.delta", **place, delta=free)
            self._tell("response.custom_tool_call_input.done", **place, input=free)
        else:
            item["arguments"] = said
            self._tell("response.function_call_arguments.done", **place, name=item["name"], arguments=said)
        item["status"] = status
        self._tell("response.output_item.done", output_index=called.index, item=item)

    def _end_items(self, reason: str) -> None:
        """End every item; a later reason says nothing new."""
        if self._finished:
            return
        self._finished, self._finish = True, reason
        status = "incomplete" if reason in _INCOMPLETE else "completed"
        self._end_speech(status)
        for called in self._calls.values():
            self._end_call(called, status)


def _place(speech: _Speech) -> dict[str, Any]:
    return {"item_id": speech.item["id"], "output_index": speech.index, "content_index": len(speech.parts)}


def _part(kind: str, text: str, logprobs: Sequence[Any] = (), annotations: Sequence[Any] = ()) -> dict[str, Any]:
    part: dict[str, Any] = {"type": kind, _FIELD[kind]: text}
    if kind == "output_text":
        part |= {"annotations": list(annotations), "logprobs": list(logprobs)}
    return part


def _flat(annotation: Any) -> Any:
    """Return an annotation as responses have it: chat nests what it says under its type."""
    if isinstance(annotation, Mapping):
        kind = annotation.get("type")
        inner = annotation.get(kind) if isinstance(kind, str) else None
        if isinstance(inner, Mapping):
            return {"type": kind, **inner}
    return annotation


def _free_text(arguments: str) -> str:
    """Return the text that a custom tool gets, out of the function's arguments that carry it."""
    try:
        given = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    text = given.get(CUSTOM_FIELD) if isinstance(given, dict) else None
    return text if isinstance(text, str) else arguments


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
