"""The Dockerfiles: what they promise of an image, read from their instructions."""

from __future__ import annotations

import json
import re
import sys

import pytest
import yaml

from tests.house.tree import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SERVICES = pytest.mark.parametrize("service", ["router", "local_agent"])
USER = "10001:10001"
"""By number, for Kubernetes; the charts ask for the same."""


def _stages(service: str) -> list[list[tuple[str, str]]]:
    """Return the instructions and their arguments, stage by stage; what stands before the first stage comes first."""
    text = (ROOT / service / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    stages: list[list[tuple[str, str]]] = [[]]
    for line in filter(None, lines.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest.strip()))
    return stages


def _all(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in stage if name == word]


@SERVICES
def test_image_has_two_stages_on_a_pinned_base_of_choice(service: str) -> None:
    """What builds stays behind; both stages stand on BASE_IMAGE, whose default is no moving `latest`."""
    start, build, final = _stages(service)
    (default,) = _all(start, "ARG")
    assert re.fullmatch(r"BASE_IMAGE=python:3\.\d+-slim-[a-z]+", default)
    assert _all(build, "FROM") == ["${BASE_IMAGE} AS build"]
    assert _all(final, "FROM") == ["${BASE_IMAGE}"]
    assert _all(final, "COPY") == ["--from=build /opt/venv /opt/venv"]


@SERVICES
def test_dependencies_are_installed_before_the_code_is_there(service: str) -> None:
    """A change of the code alone leaves the layer of the dependencies as it is."""
    build = _stages(service)[1]
    words = [word for word, _ in build if word in ("COPY", "RUN")]
    assert words == ["COPY", "COPY", "COPY", "RUN", "COPY", "COPY", "RUN"]
    first, _, third = _all(build, "COPY")[:3]
    assert "pyproject.toml" in first
    assert "scripts/setup.sh" in third
    assert _all(build, "COPY")[3:] == ["shared shared", f"{service} {service}"]
    assert [run.endswith(" --slim") for run in _all(build, "RUN")] == [False, True]


@SERVICES
def test_index_and_certificates_stay_in_the_first_stage(service: str) -> None:
    """They are copied where there are any, and the image gets nothing of that stage but the environment."""
    _, build, final = _stages(service)
    assert "LICENSE .pip-lent* /lent/" in _all(build, "COPY")
    assert all("--lent /lent" in run for run in _all(build, "RUN"))
    assert _all(final, "COPY") == ["--from=build /opt/venv /opt/venv"]


@SERVICES
def test_image_builds_without_buildkit(service: str) -> None:
    """Debian's Docker builds without it unless it is told to, and later ones where buildx is missing."""
    text = (ROOT / service / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"--mount|<<|^COPY --(?!from)|^ADD |# *syntax=", text, flags=re.MULTILINE)


@SERVICES
def test_image_runs_without_privileges(service: str) -> None:
    """A numeric user, and nothing after it that would need another."""
    final = _stages(service)[2]
    assert _all(final, "USER") == [USER]
    words = [word for word, _ in final]
    assert "RUN" not in words[words.index("USER") :]
    assert USER.split(":", maxsplit=1)[0] in _all(final, "RUN")[0]


@SERVICES
def test_process_gets_the_signals(service: str) -> None:
    """The command is in the exec form, so SIGTERM reaches the service and not a shell; so is the health check."""
    final = _stages(service)[2]
    (command,) = _all(final, "CMD")
    assert json.loads(command) == ["python", "-m", service]
    (check,) = _all(final, "HEALTHCHECK")
    program = json.loads(check.partition("CMD ")[2])
    assert program[:2] == ["python", "-c"]
    compile(program[2], "HEALTHCHECK", "exec")
    assert not _all(final, "ENTRYPOINT")


@SERVICES
def test_labels_say_what_it_is(service: str) -> None:
    """OCI's labels; the version is the project's own."""
    (labels,) = _all(_stages(service)[2], "LABEL")
    told = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', labels))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert told["version"] == project["version"]
    assert told["licenses"] == project["license"]
    assert told["revision"] == "${REVISION}"
    assert told.keys() >= {"title", "description", "documentation"}


def test_context_is_what_the_images_are_made_of() -> None:
    """Tests, data, secrets and git's history never reach a builder."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert let_in == {
        *("LICENSE", "README.md", "pyproject.toml", "scripts/setup.sh", "scripts/requirements-no-deps.txt"),
        *(".pip-lent", "local_agent", "router", "shared"),
    }


def test_dependabot_watches_all_images() -> None:
    """A pinned image that nobody raises grows old."""
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text(encoding="utf-8"))["updates"]
    watched = {update["package-ecosystem"]: update for update in updates}
    assert watched["docker"]["directories"] == ["/router", "/local_agent"]
    assert watched["docker-compose"]["directory"] == "/"
