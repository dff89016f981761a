"""The mock upstream and the load generator: two small C programs, built where they are needed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FLAGS", "NoCompiler", "Tools", "build", "compiler"]

_SOURCES = Path(__file__).parent
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-function")


class NoCompiler(Exception):
    """There is no C compiler, or it cannot build the programs; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The built programs."""

    mock: Path
    load: Path


def compiler() -> str | None:
    """Return the path of a C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build(folder: Path) -> Tools:
    """Build both programs into `folder`, unless these very sources have been built there before.

    Raises:
        NoCompiler: They cannot be built.
    """
    chosen = compiler()
    if chosen is None:
        raise NoCompiler("A C compiler is needed (Debian: apt install gcc libc6-dev; macOS: xcode-select --install).")
    folder.mkdir(parents=True, exist_ok=True)
    tools = Tools(folder / "mock", folder / "load")
    stamp, print_ = folder / "built-from", _fingerprint(chosen)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == print_:
        return tools
    for program in (tools.mock, tools.load):
        command = [chosen, *FLAGS, "-o", str(program), str(_SOURCES / f"{program.name}.c"), "-lm"]
        reply = subprocess.run(command, capture_output=True, text=True, check=False)
        if reply.returncode != 0:
            raise NoCompiler(f"{chosen} cannot build {program.name}.c:\n{reply.stderr}")
    stamp.write_text(print_, encoding="utf-8")
    return tools


def _fingerprint(chosen: str) -> str:
    digest = hashlib.sha256(" ".join((chosen, *FLAGS)).encode())
    for source in sorted((*_SOURCES.glob("*.c"), *_SOURCES.glob("*.h"))):
        digest.update(source.read_bytes())
    return digest.hexdigest()
