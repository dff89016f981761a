"""The table of field faults names tests that exist."""

from __future__ import annotations

import ast

import pytest

from tests.house.tree import ROOT, parsed
from tests.integration.faults.field import FIELD


@pytest.mark.parametrize("name", sorted({test for item in FIELD for test in item.tests}))
def test_field_fault_names_a_test(name: str) -> None:
    """A test that was renamed or removed no longer shows anything."""
    path, _, function = name.partition("::")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert function in {node.name for node in ast.walk(parsed(ROOT / path)) if isinstance(node, functions)}
