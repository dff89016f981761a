"""The measurement of accounting measures; what it finds is no test's business."""

from __future__ import annotations

from scripts.bench.ledger import measure


def test_measure_finds_every_figure() -> None:
    """Each part of the path has its figure, also where only a few requests are settled."""
    figures = measure(calls=10, requests=60)
    assert {"open", "observe a chunk", "head", "settle", "access line, alone"} <= set(figures)
    assert all(figure > 0 for figure in figures.values())
