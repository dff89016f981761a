"""The Compose stack with a real Docker: only where it is asked for (`make test-docker`)."""

from __future__ import annotations

import functools
import http.server
import ipaddress
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docker.stack import ROOT, Stack, docker
from tests.support.process import free_port

ASKED = "TEST_DOCKER"
"""`make test-docker` sets it: a test run of other kinds needs no Docker."""
IMAGES = Path(__file__).parent / "images"
BASE = "python:3.11-slim-bookworm"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs Docker, unless it is asked for."""
    if os.environ.get(ASKED) == "1":  # noqa: TID251 - the target's own switch
        return
    skip = pytest.mark.skip(reason=f"builds and runs containers: make test-docker ({ASKED}=1)")
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(skip)


def _has(image: str) -> bool:
    """Whether Docker has an image, or can fetch it."""
    return docker("image", "inspect", image, check=False).returncode == 0 or (
        docker("pull", "--quiet", image, check=False).returncode == 0
    )


@contextmanager
def _served(folder: str) -> Iterator[str]:
    """Serve a folder of packages on Docker's bridge; a build cannot see this machine's files."""
    told = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}").stdout.strip()
    gateway = str(ipaddress.ip_network(told)[1])
    serve = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer((gateway, 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{gateway}:{server.server_port}/"
        finally:
            server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """Say nothing of what is fetched."""


@pytest.fixture(scope="session")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What this machine's pip is told, for the builds: its index, certificates and folder of packages."""
    told = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}  # noqa: TID251
    lent = {name: told[name] for name in ("PIP_CERT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in told}
    packages = told.get("PIP_FIND_LINKS", "")
    if "PIP_CONFIG_FILE" in told or not Path(packages or "/nowhere").is_dir():
        yield lent | {name: told[name] for name in ("PIP_CONFIG_FILE",) if name in told}
        return
    with _served(packages) as url:
        config = tmp_path_factory.mktemp("lent") / "index"
        host = re.sub(r"^http://|:\d+/$", "", url)
        config.write_text(f"[global]\nfind-links = {url}\ntrusted-host = {host}\n")
        # A torch without CUDA is in that folder; the index that has one need not be reached.
        yield {"PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": str(config)} | lent


@pytest.fixture(scope="session")
def base_image() -> str:
    """The images' base: the usual one, or Debian's packages where no registry can be reached."""
    if _has(BASE):
        return BASE
    subprocess.run([ROOT / "scripts/docker_base.sh"], check=True)
    return "inference-router/base:bookworm"


@pytest.fixture(scope="session")
def others(base_image: str) -> dict[str, str]:
    """Variables that name other people's images: the usual ones, or our own stand-ins from Debian's packages."""
    if base_image == BASE:
        return {"DOCKER_PROFILES": "postgres monitoring"}
    named = {}
    for name in ("redis", "postgres", "prometheus"):
        named[f"{name.upper()}_IMAGE"] = tag = f"inference-router/test-{name}"
        docker("build", "--build-arg", f"BASE_IMAGE={base_image}", "--tag", tag, str(IMAGES / name))
    # Grafana is no package of Debian's.
    return {"DOCKER_PROFILES": "postgres metrics", **named}


@pytest.fixture(scope="session")
def stack(lent: dict[str, str], base_image: str, others: dict[str, str]) -> Iterator[Stack]:
    """The stack, built and started by `scripts/docker_dev.sh`; it leaves nothing behind."""
    ports = {f"{name}_PORT": str(free_port()) for name in ("ROUTER", "LOCAL_AGENT", "PROMETHEUS", "GRAFANA")}
    stack = Stack("inference-router-test", {"BASE_IMAGE": base_image, **lent, **others, **ports})
    stack.script("--purge")
    try:
        stack.said = stack.script()
        yield stack
    finally:
        stack.script("--purge")
    label = f"label=com.docker.compose.project={stack.project}"
    for what in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        assert docker(*what, "--quiet", "--filter", label).stdout == ""
