"""Stack: the services of docker-compose.yml, driven through `scripts/docker_dev.sh`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.house.tree import ROOT

__all__ = ["ROOT", "Stack", "docker", "until"]


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Docker to its end."""
    environment = {**os.environ, "BUILDKIT_PROGRESS": "plain"}  # noqa: TID251 - Docker's own variables
    done = subprocess.run(["docker", *arguments], env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds, asking twice a second."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.5)


class Stack:
    """One project of Docker Compose's.

    Args:
        project: Its name.
        settings: Variables that it is started with.
    """

    def __init__(self, project: str, settings: dict[str, str]) -> None:
        self.project = project
        self.settings = settings
        self.said = ""

    def script(self, *arguments: str) -> str:
        """Run the script to its end, in front of whoever watches; return what it said."""
        environment = {**os.environ, **self.settings, "COMPOSE_PROJECT_NAME": self.project}  # noqa: TID251
        command = [str(ROOT / "scripts/docker_dev.sh"), *arguments]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            sys.stderr.write(line)
        process.stdout.close()
        text = "".join(said)
        assert process.wait() == 0, text[-4000:]
        return text

    def url(self, service: str) -> str:
        """Where this machine reaches a service."""
        return f"http://127.0.0.1:{self.settings[f'{service}_PORT']}"

    def containers(self) -> dict[str, str]:
        """Return the ids of the containers that there are, by service."""
        label = f"label=com.docker.compose.project={self.project}"
        shown = '{{.Label "com.docker.compose.service"}} {{.ID}}'
        lines = docker("ps", "--all", "--no-trunc", "--filter", label, "--format", shown).stdout.splitlines()
        return dict(line.split() for line in lines)

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what Docker says of a service's container."""
        (found,) = json.loads(docker("inspect", self.containers()[service]).stdout)
        return dict(found)

    def run(self, service: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in a service's container."""
        return docker("exec", self.containers()[service], *command, check=check)
