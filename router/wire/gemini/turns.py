"""A chat conversation as the turns of `generateContent`."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from router.wire.gemini.changes import Changes
from router.wire.gemini.parts import content_parts, read_value
from shared.errors import InvalidRequest, NotCarried

__all__ = ["FOREIGN_SIGNATURE", "conversation"]

FOREIGN_SIGNATURE = "skip_thought_signature_validator"
"""What Google documents for a tool call whose signature is not known: one that another model made."""

_NULL = msgspec.Raw(b"null")
_UNSIGNED = re.compile(r"(models/)?(gemini-[12]\b|gemma|learnlm)")
"""Models that do not ask for the signatures of their calls."""


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _Google(msgspec.Struct):
    thought_signature: str | None = None


class _Extra(msgspec.Struct):
    google: _Google | None = None


class _Call(msgspec.Struct):
    function: _Function | None = None
    id: str | None = None
    type: str = "function"
    extra_content: msgspec.Raw = _NULL


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = _NULL
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: msgspec.Raw = _NULL
    audio: msgspec.Raw = _NULL
    extra_content: msgspec.Raw = _NULL


_MESSAGES = msgspec.json.Decoder(list[_Message])
_EXTRA = msgspec.json.Decoder(_Extra)
_ARGUMENTS: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


def conversation(messages: bytes | msgspec.Raw, model: str, changes: Changes) -> dict[str, Any]:
    """Return `contents`, and `systemInstruction` where the conversation has one.

    Args:
        messages: The messages of a chat request, as JSON.
        model: The backend's name of the model; newer ones want the signatures of their tool calls back.
        changes: Learns what has no place in a turn.

    Raises:
        InvalidRequest: A message is not what it should be; the error names the field.
        NotCarried: No turn can carry it.
    """
    turns = _Turns(not _UNSIGNED.match(model), changes)
    told_so_far = read_value(_MESSAGES, messages, "messages")
    for index, message in enumerate(told_so_far):
        turns.add(message, f"messages[{index}]")
    if not turns.contents and turns.system:
        # A request needs a turn that asks for an answer.
        changes.note("the system message sent as the user's")
        return {"contents": [{"role": "user", "parts": turns.system}]}
    told: dict[str, Any] = {"contents": turns.contents}
    if turns.system:
        told["systemInstruction"] = {"parts": turns.system}
    return told


class _Turns:
    """The turns of one conversation as far as it has been told."""

    def __init__(self, signed: bool, changes: Changes) -> None:
        self.contents: list[dict[str, Any]] = []
        self.system: list[dict[str, Any]] = []
        self._signed = signed
        self._changes = changes
        self._names: dict[str, str] = {}
        self._results: list[dict[str, Any]] | None = None
        """The parts of the turn that holds the results of the last calls, as long as there may be more."""

    def add(self, message: _Message, path: str) -> None:
        """Add one message."""
        if message.role in ("tool", "function"):
            self._add_result(message, path)
            return
        self._results = None
        if message.role in ("system", "developer"):
            if self.contents:
                self._changes.note(f"{path} moved to the front")
            self.system += content_parts(bytes(message.content), f"{path}.content", self._changes)
        elif message.role == "user":
            parts = content_parts(bytes(message.content), f"{path}.content", self._changes)
            self.contents.append({"role": "user", "parts": parts or [{"text": ""}]})
        elif message.role == "assistant":
            self._add_answer(message, path)
        else:
            raise InvalidRequest(f"Invalid value for '{path}.role': '{message.role}'.", param=f"{path}.role")
        if message.name is not None:
            self._changes.drop("messages.name")

    def _add_answer(self, message: _Message, path: str) -> None:
        for field in ("reasoning_content", "audio"):
            if bytes(getattr(message, field)) not in (b"null", b'""'):
                self._changes.drop(f"messages.{field}")
        parts = content_parts(bytes(message.content), f"{path}.content", self._changes)
        parts = [part for part in parts if part.get("text") != ""]
        if message.refusal:
            parts.append({"text": message.refusal})
        if signature := _signature(message.extra_content):
            if not parts:
                parts.append({"text": ""})
            parts[-1]["thoughtSignature"] = signature
        calls = list(message.tool_calls or ())
        if message.function_call is not None:
            calls.append(_Call(message.function_call, message.function_call.name))
        for index, call in enumerate(calls):
            parts.append(self._call(call, f"{path}.tool_calls[{index}]", first=index == 0))
        if parts:
            self.contents.append({"role": "model", "parts": parts})
        else:
            self._changes.drop(path)

    def _call(self, call: _Call, path: str, *, first: bool) -> dict[str, Any]:
        if call.function is None:
            raise NotCarried(f"The model cannot take a tool call of type '{call.type}'.", param=f"{path}.type")
        told: dict[str, Any] = {"name": call.function.name, "args": self._arguments(call.function, path)}
        if call.id:
            told = {"id": call.id, **told}
            self._names[call.id] = call.function.name
        part: dict[str, Any] = {"functionCall": told}
        if signature := _signature(call.extra_content):
            part["thoughtSignature"] = signature
        elif first and self._signed:
            self._changes.alter("thought_signature", FOREIGN_SIGNATURE)
            part["thoughtSignature"] = FOREIGN_SIGNATURE
        return part

    def _arguments(self, function: _Function, path: str) -> Any:
        written = function.arguments.strip()
        if not written:
            return {}
        try:
            _ARGUMENTS.decode(written)
        except (msgspec.DecodeError, RecursionError):
            self._changes.note(f"{path}.function.arguments wrapped in an object")
            return {"arguments": function.arguments}
        return msgspec.Raw(written.encode())

    def _add_result(self, message: _Message, path: str) -> None:
        named = message.tool_call_id or ""
        name = self._names.get(named) or message.name
        if name is None:
            param = f"{path}.tool_call_id"
            raise InvalidRequest(f"No tool call before '{path}' has the id '{named}'.", param=param)
        parts = content_parts(bytes(message.content), f"{path}.content", self._changes)
        text = "".join(part["text"] for part in parts if "text" in part)
        told: dict[str, Any] = {"name": name, "response": _response(text)}
        if message.role == "tool" and named:
            told = {"id": named, **told}
        if media := [part for part in parts if "text" not in part]:
            told["parts"] = media
        if self._results is None:
            self._results = []
            self.contents.append({"role": "user", "parts": self._results})
        self._results.append({"functionResponse": told})


def _response(text: str) -> Any:
    """Return a tool's result as the object that the dialect wants: itself where it is one."""
    try:
        _ARGUMENTS.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {"output": text}
    return msgspec.Raw(text.strip().encode())


def _signature(extra: msgspec.Raw) -> str | None:
    try:
        google = _EXTRA.decode(extra).google
    except msgspec.DecodeError:
        return None  # somebody else's extra content
    return google.thought_signature if google is not None else None
