"""docker-compose.yml: every service confined, on loopback, watched, and told only what it knows."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from local_agent.settings import AgentSettings
from router.settings import RouterSettings
from scripts.reference import settings_of
from tests.house.tree import ROOT

PROFILES = {
    "redis": [],
    "agent": [],
    "router": [],
    "postgres": ["postgres"],
    "prometheus": ["metrics", "monitoring"],
    "grafana": ["monitoring"],
    "vllm": ["gpu"],
}
EVERY = pytest.mark.parametrize("name", PROFILES)


@functools.cache
def _compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


def _service(name: str) -> dict[str, Any]:
    service: dict[str, Any] = _compose()["services"][name]
    return service


def test_services_and_their_profiles() -> None:
    """Router, agent and Redis by default; everything else is asked for."""
    assert {name: service.get("profiles", []) for name, service in _compose()["services"].items()} == PROFILES


@EVERY
def test_service_is_confined(name: str) -> None:
    """A read-only root, no capability, no way to more; /tmp is memory."""
    service = _service(name)
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc"}


@EVERY
def test_port_is_published_on_this_machine_alone(name: str) -> None:
    """What is published is on loopback, at a port that a variable can move."""
    for port in _service(name).get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+_PORT:-\d+\}:\d+", port)


@EVERY
def test_image_is_pinned_and_can_be_replaced(name: str) -> None:
    """No moving `latest`: a release of somebody else's, our own by the name that docker-dev builds."""
    variable, default = re.fullmatch(r"\$\{([A-Z]+_IMAGE):-(.+)\}", _service(name)["image"]).groups()  # type: ignore[union-attr]
    assert variable == f"{name.upper()}_IMAGE"
    if "build" in _service(name):
        assert default in (ROOT / "scripts/docker_dev.sh").read_text(encoding="utf-8")
    else:
        assert re.search(r":v?\d+\.\d+", default)


@pytest.mark.parametrize("name", ["router", "agent"])
def test_build_has_the_dockerfile_s_base(name: str) -> None:
    """Both files name the same default, and every argument is one of the Dockerfile's."""
    build = _service(name)["build"]
    dockerfile = (ROOT / build["dockerfile"]).read_text(encoding="utf-8")
    declared = dict(re.findall(r"^ARG (\w+)=?(.*)$", dockerfile, flags=re.MULTILINE))
    assert build["args"].keys() <= declared.keys()
    assert build["args"]["BASE_IMAGE"] == f"${{BASE_IMAGE:-{declared['BASE_IMAGE']}}}"


@EVERY
def test_service_is_watched(name: str) -> None:
    """A health check in the exec form: Compose's, or the image's own."""
    service = _service(name)
    if "build" in service:
        assert "HEALTHCHECK" in (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8")
    else:
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize(("name", "settings"), [("router", RouterSettings), ("agent", AgentSettings)])
def test_variables_are_the_services_own(name: str, settings: Any) -> None:
    """A variable that the service does not read would be silently without effect."""
    known = {setting.variable for setting in settings_of(settings)}
    assert _service(name)["environment"].keys() <= known


def test_nothing_of_the_host_reaches_the_router_s_addresses() -> None:
    """What `.env` says of this machine's own services would be wrong in a container."""
    environment = _service("router")["environment"]
    for name in ("ROUTER_HOST", "ROUTER_PORT", "REDIS_URL", "LOCAL_AGENT_URL", "SQLITE_DB_PATH"):
        assert "$" not in environment[name]


def test_secrets_come_from_outside() -> None:
    """No password, token or key stands in the file; what must be set is said."""
    for service in _compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"TOKEN|PASSWORD|KEY", name):
                assert re.fullmatch(r"\$\{\w+(:-|:\?.+)\}", value), name


def test_stop_leaves_time_to_drain() -> None:
    """Docker kills a service only after the time that it gives to open answers."""
    for name, setting, settings in (
        ("router", "ROUTER_DRAIN_SECONDS", RouterSettings),
        ("agent", "LOCAL_AGENT_SHUTDOWN_GRACE_S", AgentSettings),
    ):
        (drain,) = [float(s.default or 0) for s in settings_of(settings) if s.variable == setting]
        assert float(_service(name)["stop_grace_period"].removesuffix("s")) > drain


def test_volumes_are_declared_and_mounts_exist() -> None:
    """Each volume is used, each file that is mounted is in the repository, and read-only."""
    mounts = [mount for service in _compose()["services"].values() for mount in service.get("volumes", [])]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}
    assert named == set(_compose()["volumes"])
    for mount in mounts:
        if mount.startswith("."):
            assert (ROOT / mount.split(":")[0]).exists()
            assert mount.endswith(":ro")


def test_env_file_s_stand_in_sets_nothing() -> None:
    """Where no env file is named, a file of comments alone is read."""
    assert _service("router")["env_file"] == "${ROUTER_ENV_FILE:-.env.example}"
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert all(not line or line.startswith("#") for line in lines)


def _has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _has_compose(), reason="Docker Compose is not installed")
def test_compose_reads_the_file() -> None:
    """Docker's own reader takes it, with every profile."""
    command = [
        "docker",
        "compose",
        *(f"--profile={name}" for name in ("postgres", "monitoring", "gpu")),
        "config",
        "-q",
    ]
    environment = {**os.environ, "ROUTER_AGENT_TOKEN": "token"}  # noqa: TID251 - where Docker finds its plugins
    reply = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert reply.returncode == 0, reply.stderr
