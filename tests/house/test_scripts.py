"""The shell scripts are clean and do what their help says."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.house.tree import ROOT, files, short

SCRIPTS = [*files("scripts/*.sh"), ROOT / ".ci" / "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=short)
def test_script_is_executable_and_strict(script: object) -> None:
    """A script stops at its first failure, or says why it does not."""
    path = ROOT / str(script)
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o111
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text or "set -uo pipefail" in text


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed; CI runs it")
def test_scripts_pass_shellcheck() -> None:
    """No warning from shellcheck."""
    reply = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True, check=False)
    assert reply.returncode == 0, reply.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--no-such-option"], "unknown option"), (["--only", "nothing"], "--only takes"), (["--only"], "needs")],
)
def test_setup_refuses_what_it_does_not_know(arguments: list[str], complaint: str) -> None:
    """A wrong option changes nothing and is named."""
    command = [str(ROOT / "scripts/setup.sh"), *arguments]
    reply = subprocess.run(command, capture_output=True, text=True, check=False)
    assert reply.returncode != 0
    assert complaint in reply.stderr
