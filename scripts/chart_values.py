"""Renders the reference page of the charts' values, from the comments of each `values.yaml` and its schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

__all__ = ["Value", "chart_values_page", "values_of"]

CHARTS = Path(__file__).parents[1] / "worker_cluster"
INTRODUCTION = """\
What a chart is told with `--set`, or in a file with `--values`. Its `values.schema.json` checks every value, on
`helm lint`, `helm template` and `helm install` alike: a misspelt name or a value of a wrong kind is refused by name.
Values that do not go together are refused with a sentence that says what to set.
"""
_KEY = re.compile(r"^( *)([\w.-]+):")
_DESCRIPTION = "# -- "


class Value(NamedTuple):
    """One value of a chart; its path has a dot between the names."""

    path: str
    kind: str
    default: str
    description: str


def values_of(chart: Path) -> list[Value]:
    """Return the values of a chart, in the order of its `values.yaml`.

    Raises:
        ValueError: A value has no description.
    """
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    schema = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))
    described = dict(_descriptions(text))
    return [
        Value(".".join(path), _kind(_schema_at(schema, path), schema), _shown(value), described[path])
        for path, value in _leaves(yaml.safe_load(text), described)
    ]


def chart_values_page(head: str, charts: Path = CHARTS) -> str:
    """Return docs/reference/chart-values.md; `head` says that it is generated."""
    parts = [head, "# Chart values\n", INTRODUCTION]
    for path in sorted(charts.glob("*/values.yaml")):
        chart = yaml.safe_load((path.parent / "Chart.yaml").read_text(encoding="utf-8"))
        parts += [f"## {chart['name']}\n", f"{chart['description']} In `worker_cluster/{path.parent.name}/`.\n"]
        parts += [*_rows(values_of(path.parent)), ""]
    return "\n".join(parts).rstrip() + "\n"


def _rows(values: list[Value]) -> Iterator[str]:
    yield "| Value | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    for value in values:
        cells = (f"`{value.path}`", value.kind, f"`{value.default}`", value.description)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _descriptions(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path and the description of each key that has one: the comment above it that begins with `--`."""
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(_DESCRIPTION):
            comment = [stripped.removeprefix(_DESCRIPTION)]
        elif stripped.startswith("#") and comment:
            comment.append(stripped.removeprefix("#").strip())
        elif key := _KEY.match(line):
            indent = len(key[1])
            path = [*(each for each in path if each[0] < indent), (indent, key[2])]
            if comment:
                yield tuple(name for _, name in path), " ".join(comment)
            comment = []
        else:
            comment = []


def _leaves(
    values: Mapping[str, Any], described: Mapping[tuple[str, ...], str], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every described value; what is not described itself is a section of values that are."""
    for name, value in values.items():
        here = (*path, name)
        if here in described:
            yield here, value
        elif isinstance(value, Mapping) and value:
            yield from _leaves(value, described, here)
        else:
            raise ValueError(f"{'.'.join(here)} has no description")


def _schema_at(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    here = schema
    for name in path:
        here = _resolved(here, schema)["properties"][name]
    return _resolved(here, schema)


def _resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = part.get("$ref", "").removeprefix("#/$defs/")
    resolved: dict[str, Any] = schema["$defs"][name] if name else part
    return resolved


def _kind(part: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return what a schema lets through, in words."""
    if "oneOf" in part:
        return ", or ".join(_kind(_resolved(each, schema), schema) for each in part["oneOf"])
    if "enum" in part:
        return ", ".join(f"`{each}`" for each in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    words = {"boolean": "true or false", "string": "text", "array": "list", "object": "mapping"}
    kind = part["type"]
    # A number may come as text, as `--set` passes some.
    first = kind if isinstance(kind, str) else kind[0]
    return words.get(first, first)


def _shown(value: Any) -> str:
    """Return a default as one would write it in YAML."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
