"""What the house tests look at: the tracked and about-to-be-tracked files of this repository."""

from __future__ import annotations

import ast
import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("router", "local_agent", "shared", "scripts", "tests")


@functools.cache
def files(*patterns: str) -> tuple[Path, ...]:
    """Return the files git knows or would add, that match the patterns; all folders' `.py` by default."""
    wanted = patterns or tuple(f"{folder}/*.py" for folder in CODE)
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *wanted]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(path for name in sorted(set(names)) if (path := ROOT / name).is_file())


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Return a module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def short(path: Path) -> str:
    """Return a path as it is written in the repository."""
    return path.relative_to(ROOT).as_posix()
