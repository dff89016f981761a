"""Modules and functions stay small enough to be read at one sitting."""

from __future__ import annotations

import ast

from tests.house.tree import files, parsed, short

MODULE_LINES = 400
FUNCTION_LINES = 60


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def test_modules_stay_within_400_lines() -> None:
    """A longer module is two modules."""
    lengths = {short(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files()}
    assert {name: length for name, length in lengths.items() if length > MODULE_LINES} == {}


def test_functions_stay_within_60_lines() -> None:
    """A longer function is two functions."""
    too_long = {
        f"{short(path)}:{node.name}": _length(node)
        for path in files()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _length(node) > FUNCTION_LINES
    }
    assert too_long == {}
