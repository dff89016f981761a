"""The measurement of limits measures; what it says about speed is nobody's test."""

from __future__ import annotations

import json

import pytest

from scripts.bench.limits import main


def test_limits_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Every case gives a figure."""
    assert main(["--calls", "200", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert len(figures) == 8
    assert all(figure > 0 for figure in figures.values())


def test_limits_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each case."""
    assert main(["--calls", "200"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_limits_name_a_redis_that_is_away() -> None:
    """What cannot be measured is said."""
    with pytest.raises(SystemExit, match="no Redis answers"):
        main(["--calls", "200", "--redis", "redis://127.0.0.1:1/0"])
