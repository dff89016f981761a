"""soak: its judgement, and a real one of a few seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.soak.__main__ import main
from scripts.soak.measure import Sample, flatness, trend
from scripts.soak.report import judge, table
from scripts.soak.traffic import Shape, Traffic

CALM: dict[str, Any] = {"busy": 0, "stuck": [], "tracebacks": 0, "alive": True}
INSIDE = [{"tasks": 9}, {"tasks": 30}, {"tasks": 9}]


def verdict(
    rss: list[float], state: dict[str, Any] | None = None, unexplained: int = 0, in_flight: int = 0
) -> tuple[str, ...]:
    """Return the problems of a run with one look a minute."""
    traffic = Traffic("http://127.0.0.1:1", ["openai"], ["/v1/chat/completions"], Shape(), seed=1)
    traffic.counts["plain whole"] = 10
    traffic.counts["unexplained"] = unexplained
    samples = [Sample(minute * 60.0, mib, 5, 1) for minute, mib in enumerate(rss)]
    last = Sample(len(rss) * 60.0, rss[-1], 5, in_flight)
    return judge(traffic, samples, last, INSIDE, CALM | (state or {})).problems


def test_trend_is_not_tilted_by_one_outlier() -> None:
    """The slope is the median of all slopes."""
    points = [(float(x), 2.0 * x) for x in range(9)]
    assert trend(points) == 2
    assert trend([*points[:4], (4.0, 500.0), *points[5:]]) == pytest.approx(2, abs=0.5)
    assert flatness([(0.0, 1.0), (120.0, 5.0)]) == (2.0, 4.0)
    assert flatness(points[:1]) == (0.0, 0.0)


def test_flat_memory_is_well_and_growing_memory_is_not() -> None:
    """What it takes to warm up does not count."""
    assert verdict([50, 120, 180, 200, 200, 201, 200, 200, 201, 200]) == ()
    (problem,) = verdict([50, 120, 180, *range(200, 270, 10)])
    assert problem.startswith("trend of memory")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"state": {"busy": 2}}, "exchanges open at backends"),
        ({"state": {"stuck": ["m"]}}, "breakers that stick: m"),
        ({"state": {"tracebacks": 1}}, "stack traces"),
        ({"state": {"alive": False}}, "the router still runs"),
        ({"unexplained": 1}, "unexplained errors: 1"),
        ({"in_flight": 3}, "requests in flight"),
    ],
)
def test_whatever_is_left_behind_is_a_problem(what: dict[str, Any], told: str) -> None:
    """Each by its own name."""
    (problem,) = verdict([100.0] * 10, **what)
    assert told in problem


def test_a_short_soak_of_a_real_router_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All parts work together; a few seconds say nothing of memory, so that line is not judged here."""
    path = tmp_path / "result.json"
    main(["--minutes", "0.1", "--clients", "6", "--json", str(path)])
    figures, out = json.loads(path.read_text()), capsys.readouterr().out
    assert figures["requests"] > 20
    assert figures["unexplained"] == []
    assert (figures["busy"], figures["stuck"], figures["tracebacks"], figures["alive"]) == (0, [], 0, True)
    assert figures["last"]["in_flight"] == 0
    assert "| unexplained errors | 0 | ok |" in out


def test_table_tells_problems_below_it() -> None:
    """Who reads the end of the output sees them."""
    traffic = Traffic("http://127.0.0.1:1", ["openai"], ["/v1/chat/completions"], Shape(), seed=1)
    samples = [Sample(second * 60.0, 100.0, 5, 0) for second in range(10)]
    told = table(judge(traffic, samples, samples[-1], INSIDE, CALM | {"busy": 1}))
    assert told.splitlines()[-1] == "problem: exchanges open at backends at the end: 1"
