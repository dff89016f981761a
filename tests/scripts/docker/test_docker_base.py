"""`scripts/docker_base.sh` with a recording debootstrap and Docker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts.docker.stage import Reply, Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A machine without the image, where everything goes well."""
    (tmp_path / "work").mkdir()
    stage = Stage(tmp_path, "docker_base.sh", "docker id")
    stage.install("debootstrap", does='mkdir --parents "${@: -2:1}/etc"')
    stage.says("docker", "^image inspect", status=1)
    stage.says("id", "-u", "0")
    return stage


def _run(stage: Stage, tmp_path: Path, *arguments: str, **environment: str) -> Reply:
    reply = stage.run(*arguments, TMPDIR=str(tmp_path / "work"), **environment)
    assert list((tmp_path / "work").iterdir()) == [], "a folder was left behind"
    return reply


def test_image_is_made_from_packages(stage: Stage, tmp_path: Path) -> None:
    """Python with its venv module and certificates are brought; Docker imports what was made."""
    reply = _run(stage, tmp_path)

    assert reply.status == 0, reply.text
    assert "made inference-router/base:bookworm" in reply.text
    (fetched,) = reply.lines("debootstrap")
    assert fetched.startswith("--variant=minbase --include=ca-certificates,python3,python3-venv bookworm ")
    assert fetched.endswith("/root http://deb.debian.org/debian")
    assert reply.lines()[-1].startswith("import ")
    assert reply.lines()[-1].endswith(" - inference-router/base:bookworm")


def test_suite_archive_and_tag_can_be_chosen(stage: Stage, tmp_path: Path) -> None:
    """Another release, another archive, another name."""
    reply = _run(stage, tmp_path, "mine:1", DEBIAN_SUITE="trixie", DEBIAN_MIRROR="http://mirror.example/debian")

    (fetched,) = reply.lines("debootstrap")
    assert " trixie " in fetched
    assert fetched.endswith(" http://mirror.example/debian")
    assert reply.lines()[-1].endswith(" - mine:1")


def test_image_that_is_there_is_kept(stage: Stage, tmp_path: Path) -> None:
    """A second run changes nothing and says how to make it anew."""
    stage.says("docker", "^image inspect", "[]")
    reply = _run(stage, tmp_path)

    assert reply.status == 0
    assert "docker image rm inference-router/base:bookworm" in reply.text
    assert reply.lines("debootstrap") == []


def test_failure_shows_the_last_lines(stage: Stage, tmp_path: Path) -> None:
    """What debootstrap said last is shown, and nothing is imported."""
    stage.says("debootstrap", "", "E: Failed getting release file", status=1)
    reply = _run(stage, tmp_path)

    assert reply.status == 1
    assert "E: Failed getting release file" in reply.text
    assert not any(line.startswith("import") for line in reply.lines())


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("docker", "apt install docker.io"),
        ("daemon", "daemon does not answer"),
        ("debootstrap", "apt install debootstrap"),
        ("root", "run this with sudo"),
    ],
)
def test_missing_part_is_named(stage: Stage, tmp_path: Path, missing: str, told: str) -> None:
    """What is missing is named with what brings it."""
    if missing in ("docker", "debootstrap"):
        stage.remove(missing)
    if missing == "daemon":
        stage.says("docker", "^info", status=1)
    stage.says("id", "-u", "1000" if missing == "root" else "0")
    reply = _run(stage, tmp_path)

    assert reply.status == 1
    assert told in reply.text


def test_unknown_option_is_refused(stage: Stage, tmp_path: Path) -> None:
    """A wrong option is named; `--help` tells the right ones."""
    wrong = _run(stage, tmp_path, "--force")
    told = _run(stage, tmp_path, "--help")

    assert (wrong.status, told.status) == (2, 0)
    assert "unknown option --force" in wrong.text
    assert "DEBIAN_MIRROR" in told.text
