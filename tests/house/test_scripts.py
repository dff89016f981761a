"""The shell scripts are clean and do what their help says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT, files, short

SHELLCHECK = Path(sys.executable).parent / "shellcheck"
ALL = files("*.sh")
# A script is run; a part, in a folder of its own, is read by scripts and cannot be run alone.
PARTS = [path for path in ALL if path.parent.parent == ROOT / "scripts"]
SCRIPTS = [*(path for path in ALL if path not in PARTS), ROOT / ".ci" / "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=short)
def test_script_is_executable_and_strict(script: object) -> None:
    """A script stops at its first failure, or says why it does not."""
    path = ROOT / str(script)
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o111
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text or "set -uo pipefail" in text


@pytest.mark.parametrize("part", PARTS, ids=short)
def test_part_is_read_by_a_script_and_not_run(part: Path) -> None:
    """A part names its dialect, cannot be started by mistake, and belongs to a script that says so to shellcheck."""
    assert part.read_text(encoding="utf-8").startswith("# shellcheck shell=bash")
    assert not part.stat().st_mode & 0o111
    assert any(f"# shellcheck source={short(part)}\n. {short(part)}\n" in path.read_text("utf-8") for path in SCRIPTS)


@pytest.mark.parametrize("path", ALL, ids=short)
def test_shell_stays_within_400_lines(path: Path) -> None:
    """As with modules: what is longer is two parts."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_scripts_pass_shellcheck() -> None:
    """No warning from shellcheck, in the parts that a script reads neither."""
    command = [str(SHELLCHECK), "--external-sources", "--check-sourced", *map(str, SCRIPTS)]
    reply = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert reply.returncode == 0, reply.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--no-such-option"], "unknown option"),
        (["--only", "nothing"], "--only takes"),
        (["--only"], "needs"),
        (["--lent"], "needs"),
        (["--slim"], "give --only too"),
    ],
)
def test_setup_refuses_what_it_does_not_know(arguments: list[str], complaint: str) -> None:
    """A wrong option changes nothing and is named."""
    command = [str(ROOT / "scripts/setup.sh"), *arguments]
    reply = subprocess.run(command, capture_output=True, text=True, check=False)
    assert reply.returncode != 0
    assert complaint in reply.stderr
