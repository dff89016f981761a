"""What a soak's figures mean, and how they are told."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scripts.soak.measure import Sample, flatness
from scripts.soak.traffic import Traffic

__all__ = ["Findings", "judge", "table"]

_WARM_UP = 0.3
"""Share of the time after which memory should have found its level."""
_GROWTH = 0.05
"""Share of the resident memory by which the trend may come to grow after the warm-up."""
_GROWTH_MIB = 6.0
"""MiB that it may grow in any case: below that, pages of the allocator are all one sees."""
_SPARE_TASKS = 5
_SPARE_SOCKETS = 8


@dataclass(frozen=True, slots=True)
class Findings:
    """What a soak came to.

    Attributes:
        figures: All that was measured, as it is written down.
        rows: What is told: what it is, its figure, and whether that is well.
        problems: What is not well.
    """

    figures: dict[str, Any]
    rows: tuple[tuple[str, str, bool], ...]
    problems: tuple[str, ...]


def judge(
    traffic: Traffic, samples: Sequence[Sample], last: Sample, inside: Sequence[dict[str, Any]], state: dict[str, Any]
) -> Findings:
    """Return the findings of a run.

    Args:
        traffic: The requests, and what was not explained.
        samples: The router from outside, while the traffic lasted.
        last: The router after the traffic.
        inside: Tasks and objects, as the router's own process counted them.
        state: What was left at the end, and the conditions.
    """
    warm = samples[-1].second * _WARM_UP
    settled = [sample for sample in samples if sample.second >= warm]
    slope, growth = flatness([(sample.second, sample.rss) for sample in settled])
    level = statistics.median(sample.rss for sample in settled)
    allowed = max(_GROWTH_MIB, _GROWTH * level)
    requests = traffic.counts["aborted"] + sum(
        count for name, count in traffic.counts.items() if name.endswith((" stream", " whole"))
    )
    start_tasks, end_tasks = _edges(inside, "tasks")
    rows = [
        ("requests", f"{requests:,}", requests > 0),
        ("aborted by the client", f"{traffic.counts['aborted']:,}", True),
        ("faults of backends", f"{_faults(traffic):,}", True),
        ("unexplained errors", str(traffic.counts["unexplained"]), not traffic.counts["unexplained"]),
        ("memory", f"{level:.1f} MiB", True),
        (
            "trend of memory",
            f"{slope:+.2f} MiB a minute, {growth:+.1f} MiB in all (≤ {allowed:.1f})",
            growth <= allowed,
        ),
        (
            "asyncio tasks, idle at the end",
            f"{end_tasks} (at first {start_tasks})",
            end_tasks <= start_tasks + _SPARE_TASKS,
        ),
        ("requests in flight at the end", str(last.in_flight), last.in_flight == 0),
        ("exchanges open at backends at the end", str(state["busy"]), state["busy"] == 0),
        ("breakers that stick", ", ".join(state["stuck"]) or "none", not state["stuck"]),
        ("stack traces in the log", str(state["tracebacks"]), not state["tracebacks"]),
        ("the router still runs", str(state["alive"]).lower(), state["alive"]),
    ]
    if last.sockets is not None:
        most = 2 * (traffic.shape.clients + _SPARE_SOCKETS)
        rows.insert(7, ("sockets open at the end", f"{last.sockets} (≤ {most})", last.sockets <= most))
    figures = {
        **state,
        "shape": asdict(traffic.shape),
        "requests": requests,
        "counts": dict(sorted(traffic.counts.items())),
        "unexplained": traffic.unexplained,
        "rss_mib": {"level": round(level, 2), "per_minute": round(slope, 3), "growth": round(growth, 2)},
        "last": asdict(last),
        "samples": [[round(s.second, 1), round(s.rss, 1), s.sockets, s.in_flight] for s in samples],
        "inside": list(inside),
    }
    problems = tuple(f"{what}: {figure}" for what, figure, well in rows if not well)
    return Findings(figures, tuple(rows), problems + tuple(traffic.unexplained))


def _faults(traffic: Traffic) -> int:
    return traffic.counts["faulty stream"] + traffic.counts["faulty whole"]


def _edges(inside: Sequence[dict[str, Any]], name: str) -> tuple[int, int]:
    """Return the first and the last count: before the traffic, and after it."""
    return (int(inside[0][name]), int(inside[-1][name])) if inside else (0, 0)


def table(findings: Findings) -> str:
    """Return the findings as a Markdown table, and the problems below it."""
    lines = ["| What | Figure | |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | {'ok' if well else '**not ok**'} |" for what, figure, well in findings.rows]
    return "\n".join([*lines, *(f"problem: {problem}" for problem in findings.problems)])
