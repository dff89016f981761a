"""make, just and AGENTS.md name the same targets; CI calls them."""

from __future__ import annotations

import re
import subprocess

from tests.house.tree import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def _make_targets() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+):.*?## (.*)$", MAKEFILE, flags=re.MULTILINE))


def _just_targets() -> dict[str, str]:
    text = (ROOT / "justfile").read_text(encoding="utf-8")
    return {name: comment for comment, name in re.findall(r"^# (.*)\n([a-z0-9-]+):", text, flags=re.MULTILINE)}


def test_just_has_the_targets_of_make() -> None:
    """The same names in the same order, with the same descriptions."""
    assert list(_just_targets().items()) == list(_make_targets().items())


def test_contract_lists_every_target() -> None:
    """AGENTS.md's table is complete and names nothing else."""
    text = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `make ([a-z0-9-]+)`", text, flags=re.MULTILINE)) == set(_make_targets())


def test_every_target_is_phony() -> None:
    """A file of the same name must not turn a target off."""
    assert set(re.findall(r"^\.PHONY: (\S+)$", MAKEFILE, flags=re.MULTILINE)) == set(_make_targets())


def test_help_lists_every_target() -> None:
    """`make help` is made from the Makefile itself and misses nothing."""
    reply = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = [line.split()[0] for line in reply.stdout.splitlines()]
    assert listed == list(_make_targets())


def test_ci_runs_the_targets() -> None:
    """The workflow and `.ci/run` call `make lint` and `make test`, as the contract says."""
    for name in (".github/workflows/ci.yml", ".ci/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "make lint" in text
        assert "make test" in text


def test_actions_are_pinned_by_commit() -> None:
    """A tag can be moved to other code; a commit cannot."""
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)(.*)$", text, flags=re.MULTILINE)
    assert used
    for action, remark in used:
        assert re.fullmatch(r"[\w-]+/[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", remark), f"{action} does not say which release it is"
    assert "permissions:\n  contents: read\n" in text
