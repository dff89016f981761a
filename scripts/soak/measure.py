"""What a soak looks at from outside the router's process, and whether it grew."""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

__all__ = ["Sample", "flatness", "rss_mib", "sockets", "trend"]

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the router.

    Attributes:
        second: Seconds since the traffic began.
        rss: Resident memory in MiB.
        sockets: Open sockets, listening ones included; None where this system does not tell.
        in_flight: What the router says is under way.
    """

    second: float
    rss: float
    sockets: int | None
    in_flight: int


def rss_mib(pid: int) -> float:
    """Return a process' resident memory in MiB."""
    status = _PROC / str(pid) / "statm"
    if status.exists():
        return int(status.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    told = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(told.stdout) / 1024


def sockets(pid: int) -> int | None:
    """Return how many sockets a process has open, or None where this system does not tell."""
    folder = _PROC / str(pid) / "fd"
    if not folder.exists():
        return None
    count = 0
    for entry in folder.iterdir():
        try:
            count += str(entry.readlink()).startswith("socket:")
        except OSError:
            continue  # closed meanwhile
    return count


def trend(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of a line through points by Theil and Sen: a few outliers do not tilt it."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] != a[0]]
    return statistics.median(slopes) if slopes else 0.0


def flatness(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the slope per minute of what was measured after the warm-up, and what it comes to in that time."""
    if len(points) < 2:
        return 0.0, 0.0
    slope = trend(points)
    return slope * 60, slope * (points[-1][0] - points[0][0])
