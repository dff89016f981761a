"""Real service processes for tests: started on a free port, waited for, and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Service:
    """A running service process."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def output(self) -> str:
        """What it has written so far, on both channels."""
        return self.log.read_text(errors="replace")


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without any of the project's settings, plus `extra`."""
    ours = ("ROUTER_", "LOCAL_AGENT_", "EXTERNAL_", "LLMD_", "SQLITE_", "REDIS_", "DATABASE_", "OTEL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}  # noqa: TID251
    return {**kept, **extra}


@contextmanager
def service(module: str, env: Mapping[str, str], url: str, ready: str, seconds: float = 60) -> Iterator[Service]:
    """Run `python -m module` until the context ends.

    Args:
        module: The service's package.
        env: Its settings; none are taken from this process.
        url: Where it listens.
        ready: The path that answers 200 once it is ready.
        seconds: How long it may take.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env=clean_environment(env),
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = Service(process, url, log)
        try:
            wait_until_ready(running, ready, seconds)
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)


def wait_until_ready(running: Service, path: str, seconds: float) -> None:
    """Wait until the service answers 200 at `path`.

    Raises:
        RuntimeError: It ended, or did not answer in time; the message holds its output.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if running.process.poll() is not None:
            raise RuntimeError(f"the service ended with {running.process.returncode}:\n{running.output()}")
        try:
            if httpx.get(running.url + path, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the service was not ready after {seconds} s:\n{running.output()}")


@contextmanager
def router_process(folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Run a real router process over a registry in `folder`."""
    port = free_port()
    settings = {
        "ROUTER_PORT": str(port),
        "SQLITE_DB_PATH": str(folder / "models.db"),
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "LOCAL_AGENT_URL": "off",
        **(env or {}),
    }
    with service("router", settings, f"http://127.0.0.1:{port}", "/readyz") as running:
        yield running


def routerctl(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `routerctl` on the registry in `folder`."""
    settings = {"SQLITE_DB_PATH": str(folder / "models.db"), **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "router.cli", *arguments],
        cwd=ROOT,
        env=clean_environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
