"""Where the router spends its time under load, as py-spy sees it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

__all__ = ["NoProfiler", "find_profiler", "record", "shares"]

_RATE = 500
_SHOWN = 30
_LINE = re.compile(r":\d+\)$")


class NoProfiler(Exception):
    """There is no py-spy, or it may not look; the message says what to do."""


def find_profiler() -> str:
    """Return the path of py-spy.

    Raises:
        NoProfiler: It is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise NoProfiler("py-spy is not installed (pip install py-spy).")
    return found


def record(program: str, pid: int, seconds: int, output: Path) -> subprocess.Popen[str]:
    """Start looking at a process; its stacks are in `output` once the profiler has ended."""
    command = [program, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(_RATE)]
    command += ["--format", "raw", "--output", str(output), "--nonblocking"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def shares(stacks: Iterable[str]) -> str:
    """Return a Markdown table of functions by the share of samples they are in.

    Args:
        stacks: Lines `outermost;…;innermost COUNT`.
    """
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in stacks:
        path, _, count = line.strip().rpartition(" ")
        frames = [_LINE.sub(")", frame) for frame in path.split(";")]
        if not path or not count.isdigit():
            continue
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
    rows = ["| Function | Itself | With what it calls |", "|---|--:|--:|"]
    for frame, samples in own.most_common(_SHOWN):
        rows.append(f"| `{frame}` | {samples / total:.1%} | {whole[frame] / total:.1%} |")
    return "\n".join(rows)
