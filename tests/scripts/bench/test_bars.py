"""Medians, ratios and bars: the arithmetic of the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.bench.bars import BARS, COMPARISONS, Bar, Verdict, judge
from scripts.bench.ours import VARIANTS
from scripts.bench.peers import PEERS
from scripts.bench.report import BEGIN, END, document, put_into, ratio
from scripts.bench.results import ALONE, INSTALLED, Results
from scripts.bench.workloads import WORKLOADS


def _results(**gateways: list[float]) -> Results:
    results = Results(gateways={name: {"version": "1", "remark": "as it is"} for name in gateways})
    for name, values in gateways.items():
        for value in values:
            results.add("conns-64", name, {"cpu": value, "errors": 0.0, "nothing": None})
    return results


def test_median_is_that_of_the_rounds() -> None:
    """One odd round changes nothing; what was never measured has none."""
    results = _results(router=[3, 100, 2], nginx=[4, 2])
    assert results.median("conns-64", "router", "cpu") == 3
    assert results.median("conns-64", "nginx", "cpu") == 3
    assert results.median("conns-64", "router", "nothing") is None
    assert results.median("conns-64", "litellm", "cpu") is None
    assert results.median("conns-1", "router", "cpu") is None


@pytest.mark.parametrize(
    ("ours", "verdict"), [(2.0, "stretch"), (2.5, "reached"), (4.4, "reached"), (4.5, "missed"), (40, "missed")]
)
def test_bar_is_judged_by_the_ratio_of_medians(ours: float, verdict: Verdict) -> None:
    """Ours to theirs, at most."""
    judged = judge(Bar("CPU", "conns-64", "cpu", "nginx", 1.1, 0.6), _results(router=[ours, ours, 99], nginx=[4, 1, 5]))
    assert judged.value == pytest.approx(ours / 4)
    assert judged.verdict == verdict


def test_bar_without_another_is_judged_by_the_value() -> None:
    """Seconds and megabytes are what they are."""
    assert judge(Bar("start", "conns-64", "cpu", "", 1.2, 0.8), _results(router=[1.0])).verdict == "reached"


def test_bar_that_was_not_measured_is_not_passed() -> None:
    """Neither without ours nor without theirs, nor where theirs is nothing."""
    bar = Bar("CPU", "conns-64", "cpu", "nginx", 1.1, 0.6)
    for results in (_results(router=[1]), _results(nginx=[1]), _results(router=[1], nginx=[0])):
        assert judge(bar, results).verdict == "not measured"


def test_one_error_in_any_round_is_one_too_many() -> None:
    """Errors are added up, not averaged away."""
    results = Results()
    for errors in (0.0, 0.0, 1.0):
        results.add("burst-2000", "router", {"errors": errors})
    assert judge(Bar("errors", "burst-2000", "errors", "", 0, 0), results).verdict == "missed"
    assert judge(Bar("errors", "burst-2000", "errors", "", 0, 0), Results()).verdict == "not measured"


def test_comparison_may_be_with_another_workload() -> None:
    """By policy against by model."""
    results = _results(router=[4])
    results.add("policy-64", "router", {"cpu": 6.0})
    assert judge(Bar("policy", "policy-64", "cpu", "router", baseline="conns-64"), results).value == 1.5


def test_bars_name_what_exists() -> None:
    """A bar on a workload or gateway that is never run would never be measured."""
    gateways = {"nginx", "", *(variant.name for variant in VARIANTS), *(peer.name for peer in PEERS)}
    for bar in (*BARS, *COMPARISONS):
        assert {bar.ours, bar.against} <= gateways
        assert {bar.workload, bar.baseline} <= {*WORKLOADS, ALONE, INSTALLED, ""}
        assert bar.reach is None or (bar.stretch is not None and bar.stretch <= bar.reach)


@pytest.mark.parametrize(("value", "text"), [(0.876, "0.88"), (12, "12.00"), (1 / 95, "1/95"), (0, "0.00")])
def test_ratio_is_written_as_people_read_it(value: float, text: str) -> None:
    """Small ones as one part of so many."""
    assert ratio(value) == text


def test_results_survive_being_written(tmp_path: Path) -> None:
    """The raw values are all there is: the same report comes of them."""
    results = _results(router=[3.25, 1], nginx=[2])
    results.left_out.append("litellm: not installed")
    results.conditions["date"] = "today"
    results.write(tmp_path / "deep/raw.json")
    assert Results.read(tmp_path / "deep/raw.json") == results
    assert document(Results.read(tmp_path / "deep/raw.json")) == document(results)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no results"):
        Results.read(tmp_path / "other.json")


def test_report_tells_errors_and_what_was_left_out() -> None:
    """Nothing that spoils a figure is kept quiet."""
    results = Results(gateways={"router": {}, "nginx": {}}, left_out=["litellm: not installed"], faults=["refused"])
    for name, cpu, errors in (("router", 40.0, 0.0), ("nginx", 20.0, 3.0)):
        results.add("conns-64", name, {"cpu_us_per_request": cpu, "errors": errors})
    text = document(results)
    assert "| nginx | 40 µs | 20 µs | 2.00 | ≤ 5.00 | ≤ 3.00 | stretch (errors: ours 0, theirs 3) |" in text
    assert "- not measured: litellm: not installed" in text
    assert "- errors: refused" in text
    assert "vllm-router" not in text


def test_figures_go_between_the_marks(tmp_path: Path) -> None:
    """What stands around them stays."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    put_into(page, "new")
    put_into(page, "newer")
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n\nnewer\n\n{END}\nafter\n"
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="no place"):
        put_into(page, "new")
