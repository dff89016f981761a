"""What a tree of processes has used: CPU time and memory."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Reading", "memory_kind", "parse_ps", "read_tree"]

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a tree of processes has used so far.

    Args:
        cpu: Seconds of user and system time, of ended and awaited children too.
        memory: Bytes. On Linux the proportional set size: pages shared with other processes count in part.
    """

    cpu: float
    memory: int


def memory_kind() -> str:
    """Return what counts as memory on this system."""
    return "proportional set size" if (_PROC / "self/smaps_rollup").exists() else "resident set size"


def read_tree(pid: int, *, memory: bool = False) -> Reading:
    """Return what a process and its descendants have used.

    Args:
        pid: The root of the tree.
        memory: Whether to read the memory as well, which stops the processes for a moment.
    """
    if not (_PROC / "self/stat").exists():
        return _read_ps(pid)
    stats = _stats()
    tree = _descendants(pid, ((child, int(fields[1])) for child, fields in stats.items()))
    return Reading(sum(_cpu(one, stats[one]) for one in tree), sum(map(_pss, tree)) if memory else 0)


def _stats() -> dict[int, list[str]]:
    """The fields of each process's `stat` from the third on; names before them may hold anything."""
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # it has ended meanwhile
            found[int(entry.name)] = text[text.rindex(")") + 2 :].split()
    return found


def _descendants(pid: int, parents: Iterable[tuple[int, int]]) -> list[int]:
    children: dict[int, list[int]] = {}
    known = set()
    for child, parent in parents:
        children.setdefault(parent, []).append(child)
        known.add(child)
    tree = [pid] if pid in known else []
    for one in tree:
        tree.extend(children.get(one, ()))
    return tree


def _cpu(pid: int, fields: list[str]) -> float:
    """Seconds used by a process, its ended threads, and the children it has waited for."""
    try:
        # The clock of clock_getcpuclockid(3), in nanoseconds where `stat` counts ticks of 10 ms.
        own = time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it has ended meanwhile
        own = (int(fields[11]) + int(fields[12])) / _TICKS
    return own + (int(fields[13]) + int(fields[14])) / _TICKS


def _pss(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB$", text, flags=re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _read_ps(pid: int) -> Reading:
    reply = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,time=,rss="], capture_output=True, text=True, check=True)
    return parse_ps(reply.stdout, pid)


def parse_ps(text: str, pid: int) -> Reading:
    """Return what `ps -A -o pid=,ppid=,time=,rss=` tells of a tree; its times are `[[d-]h:]m:s[.hundredths]`."""
    rows = {int(row[0]): row for row in (line.split() for line in text.splitlines()) if len(row) == 4}
    tree = _descendants(pid, ((child, int(row[1])) for child, row in rows.items()))
    return Reading(sum(_seconds(rows[one][2]) for one in tree), sum(int(rows[one][3]) for one in tree) * 1024)


def _seconds(text: str) -> float:
    days, _, clock = text.rpartition("-")
    parts = [float(part) for part in clock.split(":")]
    parts[0] += 24 * float(days or 0)  # where there are days, the first part is hours
    total = 0.0
    for part in parts:
        total = total * 60 + part
    return total
