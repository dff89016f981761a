"""Every requirement has a compatible-release specifier."""

from __future__ import annotations

import re
import sys

import pytest
from packaging.requirements import Requirement

from tests.house.tree import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _from_file(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _requirements() -> list[str]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = [entry for extra in config["project"]["optional-dependencies"].values() for entry in extra]
    declared = [*config["build-system"]["requires"], *config["project"]["dependencies"], *extras]
    clients = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/clients/requirements/*.txt"))
    named = ("requirements-dev.txt", "scripts/requirements-no-deps.txt", *clients)
    return declared + [line for name in named for line in _from_file(name)]


@pytest.mark.parametrize("line", _requirements())
def test_requirement_is_a_compatible_release(line: str) -> None:
    """`~=` and nothing else: never `*`, never an open end, never an exact pin."""
    specifiers = list(Requirement(line).specifier)
    assert [specifier.operator for specifier in specifiers] == ["~="], line


def test_torch_keeps_its_narrow_range() -> None:
    """A wider range makes pip fetch gigabytes of CUDA libraries."""
    assert "torch~=2.13.0" in _requirements()


def test_router_needs_no_torch() -> None:
    """A router-only install stays small."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = {Requirement(line).name for line in config["project"]["dependencies"]}
    assert not names & {"torch", "transformers", "huggingface-hub", "safetensors", "gguf", "redis", "sse-starlette"}


@pytest.mark.parametrize(
    ("only", "packages"),
    [
        ("", {"fastapi", "uvicorn", "httpx", "redis", "pydantic", "sse-starlette", "torch", "transformers"}),
        ("router", {"fastapi", "uvicorn", "httpx", "redis", "pydantic", "psycopg", "opentelemetry-sdk"}),
    ],
)
def test_setup_installs_what_the_services_are_made_of(only: str, packages: set[str]) -> None:
    """What an extra brings is there after `make setup`, and in the router's container."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    script = (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8")
    case = only or '""'
    found = re.search(rf"^ +{case}\) packages=\(.*'\.\[(?P<extras>[a-z,-]+)\]'", script, re.MULTILINE)
    assert found is not None
    lines = list(project["dependencies"])
    for extra in found["extras"].split(","):
        lines += project["optional-dependencies"][extra]
    assert packages <= {Requirement(line).name for line in lines}


def test_dockerfiles_leave_pip_to_the_setup_script() -> None:
    """No Dockerfile calls pip; the set-up script does, from the project's own metadata."""
    for service in ("router", "local_agent"):
        text = (ROOT / service / "Dockerfile").read_text(encoding="utf-8")
        assert "scripts/setup.sh" in text
        commands = [line for line in text.splitlines() if line.startswith(("RUN", "CMD", "ENTRYPOINT", "    "))]
        assert not any(re.search(r"\bpip3?\b", line) for line in commands)
