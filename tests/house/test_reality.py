"""Tests use real parts."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house.tree import files, parsed, short

PATCHES_PER_100_TESTS = 2


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


def test_nothing_imports_mocks() -> None:
    """No `unittest.mock` and none of its relatives: a test of a mock tests the mock."""
    banned = {"unittest.mock", "mock", "pytest_mock"}
    assert [short(path) for path in files() if _imports(path) & banned] == []


def test_patching_stays_rare() -> None:
    """`monkeypatch.setattr` is for what cannot be had otherwise."""
    nodes = [node for path in files("tests/*.py") for node in ast.walk(parsed(path))]
    tests = sum(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_") for node in nodes
    )
    patches = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "setattr"]
    assert len(patches) <= max(1, tests * PATCHES_PER_100_TESTS // 100)
