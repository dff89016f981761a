"""The tools of a Responses request as chat's functions, and their calls back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from router.wire.responses.messages import CUSTOM_FIELD, flat_name
from shared.errors import InvalidRequest

__all__ = ["OPTIONAL_TOOLS", "Toolbox", "Tools"]

OPTIONAL_TOOLS = ("web_search", "image_generation")
"""How the types of hosted tools begin that an agent offers besides its own, and can do without."""
_NULL = msgspec.Raw(b"null")
_Object = dict[str, msgspec.Raw]
_TEXT = msgspec.json.Decoder(str)
_OBJECT = msgspec.json.Decoder(_Object)
_OBJECTS = msgspec.json.Decoder(list[_Object])
_NO_SPACES: Mapping[str, tuple[str, str]] = MappingProxyType({})


class Toolbox(msgspec.Struct, frozen=True):
    """Which functions stand for custom tools, and which for tools of a namespace (with it and their own name)."""

    custom: frozenset[str] = frozenset()
    spaced: Mapping[str, tuple[str, str]] = _NO_SPACES


class Tools:
    """Translates the tools of one request.

    Args:
        change: Told what is dropped or altered.
    """

    def __init__(self, change: Callable[[str], None]) -> None:
        self.functions: list[dict[str, Any]] = []
        self._change = change
        self._custom: set[str] = set()
        self._spaced: dict[str, tuple[str, str]] = {}

    @property
    def toolbox(self) -> Toolbox:
        """What is to be known of the functions when they are called."""
        return Toolbox(frozenset(self._custom), self._spaced)

    def take(self, tools: msgspec.Raw) -> None:
        """Add tools.

        Raises:
            InvalidRequest: One cannot be carried over chat.
        """
        for index, tool in enumerate(_OBJECTS.decode(tools)):
            place, kind = f"tools[{index}]", _kind(tool)
            if kind == "namespace":
                self._namespace(tool, place)
            elif kind.startswith(OPTIONAL_TOOLS):
                self._change(f"{place} {kind} dropped")
            else:
                self._tool(tool, place, None)

    def _namespace(self, tool: _Object, place: str) -> None:
        space = _name(tool, place)
        for key in tool.keys() - {"type", "name", "tools"}:
            self._change(f"{place}.{key} dropped")
        for index, inner in enumerate(_OBJECTS.decode(tool.get("tools", msgspec.Raw(b"[]")))):
            self._tool(inner, f"{place}.tools[{index}]", space)

    def _tool(self, tool: _Object, place: str, space: str | None) -> None:
        kind, own = _kind(tool), _name(tool, place)
        if kind not in ("function", "custom"):
            raise InvalidRequest(f"Tools of type '{kind}' need a backend with the Responses API.", param=place)
        name = flat_name(space, own)
        if space is not None:
            self._spaced[name] = (space, own)
        kept = ("description", "parameters", "strict") if kind == "function" else ("description",)
        function: dict[str, Any] = {"name": name}
        function |= {key: tool[key] for key in kept if bytes(tool.get(key, _NULL)) != b"null"}
        rest = tool.keys() - {"type", "name", *kept}
        if kind == "custom":
            self._custom.add(name)
            function["parameters"] = self._free_text(tool.get("format", _NULL), place)
            rest -= {"format"}
        for key in sorted(rest):
            self._change(f"{place}.{key} dropped")
        self.functions.append({"type": "function", "function": function})

    def _free_text(self, form: msgspec.Raw, place: str) -> dict[str, Any]:
        """Return the parameters of a function that takes what a custom tool takes: one text."""
        text: dict[str, Any] = {"type": "string"}
        grammar = _OBJECT.decode(form) if bytes(memoryview(form)[:1]) == b"{" else {}
        if "definition" in grammar:
            # A function cannot be held to a grammar; the model can still read it.
            text["description"] = grammar["definition"]
            self._change(f"{place}.format set to a description")
        return {
            "type": "object",
            "properties": {CUSTOM_FIELD: text},
            "required": [CUSTOM_FIELD],
            "additionalProperties": False,
        }

    def choose(self, choice: msgspec.Raw) -> Any:
        """Return chat's form of a choice of tools; one that allows some of them leaves the others out.

        Raises:
            InvalidRequest: It names no tool.
        """
        if bytes(memoryview(choice)[:1]) == b'"':
            return choice
        fields = _OBJECT.decode(choice)
        if _kind(fields) != "allowed_tools":
            name = flat_name(_space(fields), _name(fields, "tool_choice"))
            return {"type": "function", "function": {"name": name}}
        self._change("tools reduced to tool_choice.tools")
        allowed = {
            flat_name(_space(tool), _TEXT.decode(tool["name"]))
            for tool in _OBJECTS.decode(fields.get("tools", msgspec.Raw(b"[]")))
            if bytes(tool.get("name", _NULL)) != b"null"
        }
        self.functions = [one for one in self.functions if self._allowed(one["function"]["name"], allowed)]
        return fields.get("mode", msgspec.Raw(b'"auto"'))

    def _allowed(self, name: str, allowed: set[str]) -> bool:
        return name in allowed or (name in self._spaced and self._spaced[name][0] in allowed)


def _kind(tool: _Object) -> str:
    return _TEXT.decode(tool.get("type", _NULL))


def _space(tool: _Object) -> str | None:
    space = tool.get("namespace", _NULL)
    return None if bytes(memoryview(space)[:4]) == b"null" else _TEXT.decode(space)


def _name(tool: _Object, place: str) -> str:
    if bytes(memoryview(tool.get("name", _NULL))[:4]) == b"null":
        raise InvalidRequest(f"Missing required parameter: '{place}.name'.", param=f"{place}.name")
    return _TEXT.decode(tool["name"])
