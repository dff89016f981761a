"""The tools of a chat request, and which of them the model may or must call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from router.wire.gemini.changes import Changes
from router.wire.gemini.parts import read_value

__all__ = ["tool_fields"]

_NULL = msgspec.Raw(b"null")


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = _NULL
    strict: bool | None = None


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _Function | None = None


class _Named(msgspec.Struct):
    name: str


class _Allowed(msgspec.Struct):
    mode: str = "auto"
    tools: list[_Tool] = []


class _Choice(msgspec.Struct):
    type: str = "function"
    function: _Named | None = None
    name: str | None = None
    allowed_tools: _Allowed | None = None


_TOOLS = msgspec.json.Decoder(list[_Tool])
_FUNCTIONS = msgspec.json.Decoder(list[_Function])
_CHOICE: msgspec.json.Decoder[str | _Choice] = msgspec.json.Decoder(str | _Choice)
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}


def tool_fields(fields: Mapping[str, msgspec.Raw], changes: Changes) -> dict[str, Any]:
    """Return `tools` and `toolConfig` for a chat request's tools, or for the functions of older clients.

    Args:
        fields: The chat request's top-level fields, without those that are null.
        changes: Learns what cannot be said.

    Raises:
        InvalidRequest: A field is not what it should be; the error names it.
    """
    functions: list[_Function] = []
    if "tools" in fields:
        tools = read_value(_TOOLS, fields["tools"], "tools")
        for index, tool in enumerate(tools):
            if tool.function is None:
                changes.drop(f"tools[{index}]")
            else:
                functions.append(tool.function)
    elif "functions" in fields:
        functions = read_value(_FUNCTIONS, fields["functions"], "functions")
    named = "tool_choice" if "tool_choice" in fields else "function_call"
    if not functions:
        if named in fields:
            changes.drop(named)
        return {}
    told: dict[str, Any] = {"tools": [{"functionDeclarations": [_declared(one, changes) for one in functions]}]}
    if named in fields:
        calling = _calling(read_value(_CHOICE, fields[named], named))
        if calling is None:
            changes.drop(named)
        else:
            told["toolConfig"] = {"functionCallingConfig": calling}
    if bytes(fields.get("parallel_tool_calls", _NULL)) == b"false":
        changes.drop("parallel_tool_calls")
    return told


def _declared(function: _Function, changes: Changes) -> dict[str, Any]:
    declared: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        declared["description"] = function.description
    if bytes(function.parameters) not in (b"null", b"{}"):
        declared["parametersJsonSchema"] = function.parameters
    if function.strict:
        changes.drop("tools.function.strict")
    return declared


def _calling(choice: str | _Choice) -> dict[str, Any] | None:
    """Return how the model may call functions, or None where the dialect has no word for it."""
    if isinstance(choice, str):
        return {"mode": _MODES[choice]} if choice in _MODES else None
    if choice.allowed_tools is not None:
        allowed = [tool.function.name for tool in choice.allowed_tools.tools if tool.function is not None]
        mode = "ANY" if choice.allowed_tools.mode == "required" else "VALIDATED"
        return {"mode": mode, "allowedFunctionNames": allowed}
    name = choice.function.name if choice.function is not None else choice.name
    return None if name is None else {"mode": "ANY", "allowedFunctionNames": [name]}
