"""Reading YAML (and so JSON) with the line of every value, and with repeated keys refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

__all__ = ["Document", "Path", "YAMLProblem", "read_yaml"]

Path = tuple[str | int, ...]
_MOST_VALUES = 100_000
_DEEPEST = 20


class YAMLProblem(Exception):
    """The text is not YAML, or repeats a key.

    Args:
        line: Where, counted from 1.
        path: The value at fault, where there is one.
        message: What is wrong.
    """

    def __init__(self, line: int, path: Path, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values and where they were written."""

    value: Any
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int:
        """Return the line of a value, or of the nearest one around it that was written."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_yaml(text: str) -> Document:
    """Parse one YAML document; a key without a value counts as not written.

    Raises:
        YAMLProblem: It cannot be parsed.
    """
    loader = yaml.SafeLoader(text)
    lines: dict[Path, int] = {}
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(None, {})
        _locate(node, lines)
        value = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YAMLProblem(
            1 if mark is None else mark.line + 1, (), error.problem or "cannot be read as YAML"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YAMLProblem(1, (), f"cannot be read as YAML: {error}") from error
    finally:
        loader.dispose()
    return Document(_without_nulls(value), lines)


def _locate(root: yaml.Node, lines: dict[Path, int]) -> None:
    """Note the line of every value below `root`."""
    lines[()] = root.start_mark.line + 1
    pending: list[tuple[Path, yaml.Node]] = [((), root)]
    while pending:
        path, node = pending.pop()
        # Anchors can make a short text endless or exponential.
        if len(lines) > _MOST_VALUES or len(path) > _DEEPEST:
            raise YAMLProblem(
                node.start_mark.line + 1, path, "the document holds too many values or is nested too deeply"
            )
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                below = (*path, str(key.value))
                line = key.start_mark.line + 1
                if below in lines:
                    raise YAMLProblem(line, below, f"is written twice, first on line {lines[below]}")
                lines[below] = line
                pending.append((below, value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                below = (*path, index)
                lines[below] = value.start_mark.line + 1
                pending.append((below, value))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
