"""The import contracts hold, and each of them catches what it is there for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT, files

VIOLATIONS = {
    "services": ("router/types.py", "import local_agent.types"),
    "shared": ("shared/sse.py", "import router.types"),
    "router-layers": ("router/types.py", "import router.interfaces"),
    "local-agent-layers": ("local_agent/types.py", "import local_agent.scheduler"),
    "island-backends": ("router/backends/openai_compatible.py", "import router.backends.local_agent"),
    "island-scorers": ("router/routing/scorers/new.py", "import router.routing.scorers.other"),
    "island-state": ("router/state/redis.py", "import router.state.memory"),
    "island-wire": ("router/wire/infer.py", "import router.wire.openai"),
    "web-framework": ("router/gateway.py", "import fastapi"),
    "arithmetic": ("router/routing/decide.py", "import asyncio"),
    "torch": ("local_agent/scheduler.py", "import torch"),
    "settings": ("router/gateway.py", "import router.settings"),
    "agent-settings": ("local_agent/scheduler.py", "import local_agent.settings"),
}


def _lint(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_contracts_hold() -> None:
    """The code as it stands breaks no wall."""
    reply = _lint(ROOT)
    assert reply.returncode == 0, reply.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and their contracts, to be broken."""
    folder = tmp_path_factory.mktemp("copy")
    for path in files("router/*.py", "local_agent/*.py", "shared/*.py", "pyproject.toml"):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_contract_catches_a_violation(copy: Path, contract: str) -> None:
    """One forbidden line fails exactly the contract that forbids it."""
    name, line = VIOLATIONS[contract]
    module = copy / name
    before = module.read_text(encoding="utf-8") if module.exists() else None
    if contract == "island-scorers":
        module.with_name("other.py").write_text("")
    try:
        module.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
        reply = _lint(copy, "--contract", contract)
    finally:
        if before is None:
            module.unlink()
        else:
            module.write_text(before, encoding="utf-8")
    assert reply.returncode == 1, reply.stdout
    assert "BROKEN" in reply.stdout
