"""A stage for a shell script: a copy of it, and on PATH nothing but plain tools and programs that only record."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.house.tree import ROOT

__all__ = ["Call", "Reply", "Stage"]

_TOOLS = (
    *("bash", "basename", "cat", "cp", "dirname", "env", "grep", "mkdir", "mktemp", "od"),
    *("printf", "rm", "sed", "tail", "tar", "tr"),
)
_PROGRAM = """\
#!{bash}
{does}
records={records}
program=${{0##*/}} line="$*"
[[ "$program $line" != "docker import "* ]] || cat >/dev/null
{{ printf '%s\\0' "$program" "$line"; env -0; printf '\\0'; }} >>"$records/calls"
answer() {{
    local uses="$records/uses-$1" used status="$2"
    shift 2
    used="$(cat "$uses" 2>/dev/null)"
    printf . >>"$uses"
    shift $((${{#used}} < $# ? ${{#used}} : $# - 1))
    printf '%s\\n' "$1"
    exit "$status"
}}
. "$records/script"
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One program that was started."""

    program: str
    line: str
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a run of the script came to."""

    status: int
    text: str
    calls: list[Call]

    def lines(self, program: str = "docker") -> list[str]:
        """Return what a program was started with, in order."""
        return [call.line for call in self.calls if call.program == program]

    def one(self, start: str) -> Call:
        """Return the only call whose arguments start so."""
        (found,) = [call for call in self.calls if call.line.startswith(start)]
        return found


class Stage:
    """Where a script is played.

    Args:
        folder: An empty folder.
        script: The script's name in `scripts/`.
        programs: What is recorded in place of the real programs.
    """

    def __init__(self, folder: Path, script: str, programs: str) -> None:
        self.root = folder / "repository"
        self._bin = folder / "bin"
        self._records = folder / "records"
        for place in (self.root / "scripts", self._bin, self._records):
            place.mkdir(parents=True)
        self._script = shutil.copy(ROOT / "scripts" / script, self.root / "scripts")
        for tool in _TOOLS:
            (self._bin / tool).symlink_to(str(shutil.which(tool)))
        for program in programs.split():
            self.install(program)
        self._answers: list[tuple[str, str, tuple[str, ...], int]] = []

    def install(self, program: str, does: str = "") -> None:
        """Put a recording program on PATH; `does` is shell code that it runs first."""
        place = self._bin / program
        place.write_text(_PROGRAM.format(bash=shutil.which("bash"), does=does, records=shlex.quote(str(self._records))))
        place.chmod(0o755)

    def remove(self, program: str) -> None:
        """Take a program from PATH."""
        (self._bin / program).unlink()

    def says(self, program: str, pattern: str, *answers: str, status: int = 0) -> None:
        """Let a program answer calls that match an extended pattern: one answer each time, the last from then on.

        What is said last goes before what was said earlier.
        """
        self._answers.insert(0, (program, pattern, answers or ("",), status))

    def run(self, *arguments: str, **environment: str) -> Reply:
        """Run the script to its end."""
        for old in self._records.iterdir():
            old.unlink()
        (self._records / "script").write_text("".join(self._rules()))
        done = subprocess.run(
            [self._script, *arguments],
            env={"PATH": str(self._bin), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Reply(done.returncode, done.stdout, list(self._calls()))

    def _rules(self) -> Iterator[str]:
        """The recording programs' part that differs: what is answered to what."""
        for number, (program, pattern, answers, status) in enumerate(self._answers):
            texts = " ".join(map(shlex.quote, answers))
            yield f"pattern={shlex.quote(pattern)}\n"
            yield f"[[ $program != {program} || ! $line =~ $pattern ]] || answer {number} {status} {texts}\n"

    def _calls(self) -> Iterator[Call]:
        calls = self._records / "calls"
        for call in (calls.read_text() if calls.exists() else "").split("\0\0")[:-1]:
            program, line, *environment = call.split("\0")
            yield Call(program, line, dict(entry.split("=", 1) for entry in environment))
