"""What the actor answers: decided by the request alone, the same in every dialect.

A text, a tool call with arguments that fit the tool's schema, an object that fits a schema, or a
failure that the prompt asks for: `fail with 429`, `break off`, `hang`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TEXT = 'Grüße, 世界 🌍! \\n "quoted"'
CITY = "Łódź 🌍"


@dataclass(frozen=True)
class Call:
    """A tool call that the actor makes."""

    id: str
    name: str
    arguments: Any

    @property
    def written(self) -> str:
        """The arguments as JSON; not as Python would write them, so that a rewriting is seen."""
        return json.dumps(self.arguments, ensure_ascii=False, separators=(",", " : "))


@dataclass(frozen=True)
class Thought:
    """What to answer."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    status: int = 200
    breaks: bool = False
    hangs: bool = False


def think(
    prompt: str,
    tools: Sequence[tuple[str, Mapping[str, Any]]] = (),
    chosen: str | None = None,
    result: str | None = None,
    schema: Mapping[str, Any] | None = None,
) -> Thought:
    """Return what to answer.

    Args:
        prompt: The last words of the user.
        tools: Name and schema of what may be called.
        chosen: The tool that must be called.
        result: What a tool gave, where one has been called already.
        schema: What the answer must fit.
    """
    if found := re.search(r"fail with (\d{3})", prompt):
        return Thought(status=int(found[1]))
    if result is not None:
        return Thought(f"The tool said: {result}")
    if tools:
        wanted = [tool for tool in tools if chosen in (None, tool[0])]
        wanted = wanted if "both" in prompt else wanted[:1]
        return Thought(
            calls=tuple(Call(f"call_{index}abc", name, fill(schema)) for index, (name, schema) in enumerate(wanted))
        )
    if schema is not None:
        return Thought(json.dumps(fill(schema), ensure_ascii=False))
    return Thought(TEXT, breaks="break off" in prompt, hangs="hang" in prompt)


def asks_for_tools(prompt: str) -> bool:
    """Whether a prompt is one that a tool helps with; what a client offers by itself is left alone."""
    return any(word in prompt for word in ("tool", "weather"))


def fill(schema: Mapping[str, Any], whole: Mapping[str, Any] | None = None) -> Any:
    """Return a value that fits a JSON schema."""
    root = whole or schema
    if "$ref" in schema:
        place: Any = root
        for name in str(schema["$ref"]).removeprefix("#/").split("/"):
            place = place[name]
        return fill(place, root)
    for one in ("anyOf", "oneOf", "allOf"):
        if schema.get(one):
            return fill(schema[one][0], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return {name: fill(inner, root) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [fill(schema.get("items", {"type": "string"}), root)]
    return {"integer": 7, "number": 1.5, "boolean": True, "null": None}.get(str(kind), CITY)


def pieces(text: str, size: int = 5) -> list[str]:
    """Cut a text as a tokenizer would, without regard to what it means."""
    return [text[start : start + size] for start in range(0, len(text), size)] or [""]
