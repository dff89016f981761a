"""The measurement of routing decisions: it measures what it says."""

from __future__ import annotations

import pytest

from scripts.bench import routing
from scripts.bench.routing import WINDOW, Load, kind


@pytest.mark.parametrize("step", ["plan", "reference", "nothing"])
def test_load_keeps_its_window_of_requests(step: str) -> None:
    """However a request is routed, one begins and one leaves."""
    load = Load(10, [kind(), kind(session="s")])
    for number in range(100):
        getattr(load, step)(number)
        assert len(load.flying) == WINDOW
    assert sum(state.in_flight for state in load.board.snapshot().values()) == WINDOW


def test_main_prints_a_line_for_each_size(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of sizes against kinds of requests."""
    monkeypatch.setattr(routing, "ROUNDS", 1)
    routing.main([2, 3])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["microseconds", "deployments", "2", "3", "extract_features:"]
