"""Environments for the client libraries that `make test-clients` runs: one folder each, under `.clients/`.

A Python client is a virtual environment made from `tests/clients/requirements/NAME.txt`, a Node
client a folder made from `tests/clients/node/NAME/package.json`. An environment whose
requirements have not changed is kept. Without Node its clients are left out, and the run says so.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Client", "clients", "main"]

ROOT = Path(__file__).resolve().parents[1]
_MINUTES = 15
"""An installation that takes longer than this is stuck."""
_NODE = 20
"""The oldest major version that all Node clients run on."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client library, and where its own environment is."""

    name: str
    declared: Path
    """Its requirements file, or its `package.json`."""
    folder: Path

    @property
    def is_node(self) -> bool:
        """Whether Node runs it."""
        return self.declared.name == "package.json"

    @property
    def ready(self) -> bool:
        """Whether its environment is there, made from what is declared now."""
        stamp = self.folder / ".ready"
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == self.fingerprint()

    def fingerprint(self) -> str:
        """Return what the environment depends on, as a digest."""
        runtime = (_node() or "none") if self.is_node else sys.version
        return hashlib.sha256(runtime.encode() + self.declared.read_bytes()).hexdigest()

    def make(self) -> None:
        """Make the environment anew.

        Raises:
            subprocess.SubprocessError: The package index or registry did not give what is declared.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.is_node:
            shutil.copy(self.declared, self.folder)
            _run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"], self.folder)
        else:
            _run([sys.executable, "-m", "venv", str(self.folder / "venv")], self.folder)
            pip = [str(self.folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
            _run([*pip, "--no-input", "--quiet", "-r", str(self.declared)], self.folder)
        (self.folder / ".ready").write_text(self.fingerprint(), encoding="utf-8")


def clients(root: Path = ROOT) -> list[Client]:
    """Return all clients that are declared, by name."""
    declared = root / "tests" / "clients"
    found = [Client(path.stem, path, root / ".clients" / path.stem) for path in declared.glob("requirements/*.txt")]
    packages = declared.glob("node/*/package.json")
    found += [Client(path.parent.name, path, root / ".clients" / path.parent.name) for path in packages]
    return sorted(found, key=lambda client: client.name)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT, say: Callable[[str], None] = print) -> int:
    """Make the environments that are missing or out of date; return 1 where one could not be made."""
    parser = argparse.ArgumentParser(prog="python -m scripts.clients", description=__doc__)
    parser.add_argument("only", nargs="*", help="names of clients; all by default")
    wanted = parser.parse_args(arguments).only
    known = clients(root)
    unknown = sorted(set(wanted) - {client.name for client in known})
    if unknown:
        say(f"clients: no such client: {', '.join(unknown)}; there are {', '.join(c.name for c in known)}")
        return 2
    failed = False
    node = _node()
    for client in known:
        if (wanted and client.name not in wanted) or client.ready:
            continue
        if client.is_node and node is None:
            say(f"clients: {client.name} is left out: it needs Node {_NODE} or newer with npm (apt install nodejs npm)")
            continue
        began = time.monotonic()
        try:
            client.make()
        except (subprocess.SubprocessError, OSError) as error:
            failed = True
            say(f"clients: {client.name} could not be installed: {_reason(error)}")
        else:
            say(f"clients: {client.name} is ready ({time.monotonic() - began:.0f}s)")
    return 1 if failed else 0


def _node() -> str | None:
    """Return Node's version where it and npm are there and new enough."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return None
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = version.removeprefix("v").split(".")[0]
    return version if major.isdecimal() and int(major) >= _NODE else None


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=_MINUTES * 60)


def _reason(error: Exception) -> str:
    """Return the end of what the installer said, or the error itself."""
    told = str(getattr(error, "stderr", "") or "").strip()
    return told[-500:] or str(error)


if __name__ == "__main__":
    sys.exit(main())
