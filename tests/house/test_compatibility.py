"""Every rule of the compatibility page names tests, and every test that it names is there."""

from __future__ import annotations

import ast
import re

from tests.house.tree import ROOT, files, parsed, short

PAGE = ROOT / "docs" / "reference" / "compatibility.md"
RULES = 60
"""Fewer than this, and rows have been lost."""


def _rows() -> list[tuple[str, list[str]]]:
    """The rules with the tests that they name."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 2 and cells[0] not in ("Rule", "Client") and set(cells[0]) != {"-"}:
            found.append((cells[0], re.findall(r"`(\w+)`", cells[1])))
    return found


def _tests() -> set[str]:
    """The names of the tests, as the page writes them."""
    return {
        node.name
        for path in files("tests/*.py")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_rule_names_tests_that_exist() -> None:
    """A rule without a test is a wish."""
    rows, tests = _rows(), _tests()
    assert len(rows) >= RULES
    for rule, named in rows:
        assert named, f"no test ticks: {rule}"
        assert set(named) <= tests, f"{rule}: no such test: {set(named) - tests}"


def test_every_compatibility_test_is_on_the_page() -> None:
    """A test that no rule names is a rule that nobody can read."""
    named = {name for _, tests in _rows() for name in tests}
    written = {
        node.name
        for path in files("tests/compat/*.py", "tests/clients/*.py")
        for node in parsed(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }
    assert written <= named, f"not in {short(PAGE)}: {written - named}"
