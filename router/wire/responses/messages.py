"""The items of a Responses request as chat messages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from router.wire.parsing import invalid_field
from shared.errors import InvalidRequest

__all__ = ["CUSTOM_FIELD", "Messages", "flat_name"]

CUSTOM_FIELD = "input"
"""What holds the free text of a custom tool where it is carried as a function."""
_LONGEST = 64
"""Characters that the name of a function may have."""
_NULL = msgspec.Raw(b"null")
_Object = dict[str, msgspec.Raw]
_OBJECT = msgspec.json.Decoder(_Object)
_OBJECTS = msgspec.json.Decoder(list[_Object])
_TEXT = msgspec.json.Decoder(str)
_TEXTS = ("input_text", "output_text", "text", "summary_text")


def flat_name(space: str | None, name: str) -> str:
    """Return the name of the function that stands for a tool of a namespace; chat has no namespaces."""
    if space is None:
        return name
    whole = f"{space}{name}" if space.endswith("__") else f"{space}__{name}"
    if len(whole) <= _LONGEST:
        return whole
    return f"{whole[: _LONGEST - 9]}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


class Messages:
    """Gathers chat messages from items, in their order.

    What the model itself said in one go (a text and calls of tools) becomes one message, as chat has it.

    Args:
        change: Told what is dropped or altered.
    """

    def __init__(self, change: Callable[[str], None]) -> None:
        self.messages: list[dict[str, Any]] = []
        self._change = change
        self._open: dict[str, Any] | None = None

    def instruct(self, text: str) -> None:
        """Add the request's instructions."""
        self._add({"role": "system", "content": text})

    def say(self, text: msgspec.Raw) -> None:
        """Add an input that is a plain string."""
        self._add({"role": "user", "content": text})

    def take(self, item: msgspec.Raw, place: str) -> None:
        """Add one item.

        Args:
            item: Its JSON.
            place: Where it stands in the request, such as `input[0]`.

        Raises:
            InvalidRequest: The item cannot be read, or chat has no form for it.
        """
        try:
            fields = _OBJECT.decode(item)
            kind = _text(fields, "type") or ("message" if "role" in fields else "item_reference")
            self._take(kind, fields, place)
        except msgspec.ValidationError as error:
            inner = invalid_field(str(error)).param
            param = f"{place}.{inner}" if inner else place
            raise InvalidRequest(f"Invalid value for '{param}': {error}.", param=param) from error

    def _take(self, kind: str, fields: _Object, place: str) -> None:
        if kind == "message":
            self._message(fields, place)
        elif kind in ("function_call", "custom_tool_call"):
            self._call(kind, fields, place)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._output(fields, place)
        elif kind == "reasoning":
            self._change("input reasoning dropped")
        elif kind == "item_reference":
            name = _text(fields, "id")
            raise InvalidRequest(f"Item with id '{name}' not found.", param=f"{place}.id")
        else:
            raise InvalidRequest(f"Items of type '{kind}' need a backend with the Responses API.", param=place)

    def _message(self, fields: _Object, place: str) -> None:
        role = _text(fields, "role") or ""
        content = self._content(fields.get("content", _NULL), f"{place}.content")
        if role != "assistant":
            if role == "developer":
                # Most templates of chat models know `system` alone.
                role = "system"
                self._change("input role developer set to system")
            self._add({"role": role, "content": content})
        elif self._open is not None and self._open["content"] is None:
            self._open["content"] = content
        else:
            self._add({"role": "assistant", "content": content})
            self._open = self.messages[-1]

    def _call(self, kind: str, fields: _Object, place: str) -> None:
        name = flat_name(_text(fields, "namespace"), _required(fields, "name", place))
        if kind == "function_call":
            _required(fields, "arguments", place)
            arguments: Any = fields["arguments"]
        else:
            arguments = msgspec.json.encode({CUSTOM_FIELD: _required(fields, "input", place)}).decode()
        call = {
            "id": _required(fields, "call_id", place),
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        if self._open is None:
            self._add({"role": "assistant", "content": None})
            self._open = self.messages[-1]
        self._open.setdefault("tool_calls", []).append(call)

    def _output(self, fields: _Object, place: str) -> None:
        output = fields.get("output", _NULL)
        if bytes(output) == b"null":
            raise InvalidRequest(f"Missing required parameter: '{place}.output'.", param=f"{place}.output")
        call = _required(fields, "call_id", place)
        self._add({"role": "tool", "tool_call_id": call, "content": self._content(output, f"{place}.output")})

    def _add(self, message: dict[str, Any]) -> None:
        self._open = None
        self.messages.append(message)

    def _content(self, content: msgspec.Raw, place: str) -> Any:
        """Return a message's content in chat's form; a single text is told as a string, as all servers know it."""
        if bytes(memoryview(content)[:1]) != b"[":
            return content
        parts = [self._part(part, f"{place}[{index}]") for index, part in enumerate(_OBJECTS.decode(content))]
        if len(parts) == 1 and parts[0]["type"] == "text":
            return parts[0]["text"]
        return parts or ""

    def _part(self, part: _Object, place: str) -> dict[str, Any]:
        kind = _text(part, "type")
        if kind in _TEXTS:
            return {"type": "text", "text": part.get("text", msgspec.Raw(b'""'))}
        if kind == "refusal":
            return {"type": "refusal", "refusal": part.get("refusal", msgspec.Raw(b'""'))}
        if kind == "input_image" and _given(part, "image_url"):
            return {"type": "image_url", "image_url": _kept(part, {"image_url": "url", "detail": "detail"})}
        if kind == "input_file" and (_given(part, "file_data") or _given(part, "file_id")):
            names = {"file_data": "file_data", "file_id": "file_id", "filename": "filename"}
            return {"type": "file", "file": _kept(part, names)}
        if kind == "input_audio" and _given(part, "input_audio"):
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        raise InvalidRequest(f"Parts of type '{kind}' need a backend with the Responses API.", param=place)


def _given(part: Mapping[str, msgspec.Raw], name: str) -> bool:
    return bytes(memoryview(part.get(name, _NULL))[:4]) != b"null"


def _kept(part: Mapping[str, msgspec.Raw], names: Mapping[str, str]) -> dict[str, msgspec.Raw]:
    return {new: part[old] for old, new in names.items() if _given(part, old)}


def _text(fields: Mapping[str, msgspec.Raw], name: str) -> str | None:
    return _TEXT.decode(fields[name]) if _given(fields, name) else None


def _required(fields: Mapping[str, msgspec.Raw], name: str, place: str) -> str:
    value = _text(fields, name)
    if value is None:
        raise InvalidRequest(f"Missing required parameter: '{place}.{name}'.", param=f"{place}.{name}")
    return value
