"""Results as Markdown: the bars, other comparisons, all medians, and the conditions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from scripts.bench.bars import BARS, COMPARISONS, Bar, Judged, judge
from scripts.bench.results import ALONE, INSTALLED, Results

__all__ = ["BEGIN", "END", "bars_table", "document", "put_into", "ratio"]

BEGIN = "<!-- figures: written by `python -m scripts.bench --docs` -->"
END = "<!-- end of figures -->"
_QUANTITIES = (
    ("rate", "good/s", 0),
    ("errors", "errors", 0),
    ("cpu_us_per_request", "CPU µs/request", 1),
    ("cpu_us_per_chunk", "CPU µs/chunk", 1),
    ("latency_p50_us", "p50 µs", 0),
    ("latency_p99_us", "p99 µs", 0),
    ("first_byte_p50_us", "first byte p50 µs", 0),
    ("first_byte_p99_us", "p99 µs", 0),
    ("chunk_delay_p50_us", "chunk delay p50 µs", 0),
    ("chunk_delay_p99_us", "p99 µs", 0),
    ("busy", "busy", 2),
)


def ratio(value: float) -> str:
    """Return a ratio as people read it: 0.87, and 1/95 where it is small."""
    return f"1/{1 / value:.0f}" if 0 < value < 0.1 else f"{value:.2f}"


def document(results: Results) -> str:
    """Return everything about a run."""
    parts = [
        bars_table(results, [bar for bar in BARS if _worth(bar, results)]),
        "\nAlso measured, without a bar:\n",
        bars_table(results, [bar for bar in COMPARISONS if judge(bar, results).value is not None]),
        "\n### All medians\n",
        _medians(results),
        "\n### Alone\n",
        _alone(results),
        "\n### Conditions\n",
        *_conditions(results),
    ]
    return "\n".join(parts)


def bars_table(results: Results, bars: Iterable[Bar]) -> str:
    """Return bars with what was measured."""
    rows = [
        "| Measure | Against | Ours | Theirs | Ratio | Reach | Stretch | Verdict |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    rows += [_row(judge(bar, results)) for bar in bars]
    return "\n".join(rows)


def _worth(bar: Bar, results: Results) -> bool:
    """A bar against a gateway that was not part of the run is no part of its table."""
    return not bar.against or bar.against in results.gateways or bar.against.startswith("router")


def _row(judged: Judged) -> str:
    bar = judged.bar
    shape = ratio if bar.against else (lambda value: _number(value, bar.unit))
    cells = [
        bar.title,
        bar.against or "-",
        "-" if judged.ours is None else _number(judged.ours, bar.unit),
        "-" if judged.theirs is None else _number(judged.theirs, bar.unit),
        "-" if judged.value is None or not bar.against else ratio(judged.value),
        "" if bar.reach is None else f"≤ {shape(bar.reach)}",
        "" if bar.stretch is None else f"≤ {shape(bar.stretch)}",
        judged.verdict + _errors(judged),
    ]
    return f"| {' | '.join(cells)} |"


def _errors(judged: Judged) -> str:
    """Figures of answers that were not good say little, so the table says that there were some."""
    if judged.bar.quantity == "errors" or not any(judged.errors):
        return ""
    return f" (errors: ours {judged.errors[0]}, theirs {judged.errors[1]})"


def _number(value: float, unit: str) -> str:
    digits = 0 if value == int(value) or value >= 1000 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}".strip()


def _medians(results: Results) -> str:
    names = "".join(f" {title} |" for _, title, _ in _QUANTITIES)
    rows = [f"| Workload | Gateway |{names}", "|---|---|" + "--:|" * len(_QUANTITIES)]
    for workload, gateways in results.values.items():
        if workload in (ALONE, INSTALLED):
            continue
        for gateway in gateways:
            cells = []
            for name, _, digits in _QUANTITIES:
                value = results.median(workload, gateway, name)
                if name == "errors":
                    value = results.errors(gateway, workload)
                cells.append("" if value is None else f"{value:,.{digits}f}")
            rows.append(f"| {workload} | {gateway} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _alone(results: Results) -> str:
    rows = [
        "| Gateway | Start to first answer, s | Idle PSS, MiB | PSS per open stream, KiB | Installed, MB |",
        "|---|--:|--:|--:|--:|",
    ]
    for gateway in dict.fromkeys((*results.values.get(ALONE, {}), *results.values.get(INSTALLED, {}))):
        values = [results.median(ALONE, gateway, name) for name in ("start_s", "idle_mib", "stream_kib")]
        values.append(results.median(INSTALLED, gateway, "mb"))
        cells = ["" if value is None else f"{value:,.2f}" for value in values]
        rows.append(f"| {gateway} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _conditions(results: Results) -> Sequence[str]:
    lines = [f"- {name}: {value}" for name, value in results.conditions.items()]
    for name, facts in results.gateways.items():
        lines.append(f"- `{name}` {facts.get('version', '')}: {facts.get('remark', '')}".replace(" :", ":"))
    lines += [f"- not measured: {line}" for line in results.left_out]
    lines += [f"- errors: {line}" for line in results.faults]
    return lines


def put_into(page: Path, text: str) -> None:
    """Replace what stands between a page's marks.

    Raises:
        ValueError: The page has no marks.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for figures ({BEGIN} … {END})")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
