"""Tests of starting and stopping the agent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from local_agent.supervisor import Limits, Supervisor
from local_agent.types import Configure
from tests.support.agent import agent_environment, eventually, readiness
from tests.support.process import ROOT, Service, clean_environment, free_port, wait_until_ready


def start(**settings: str) -> subprocess.CompletedProcess[str]:
    """Run the agent with settings that must stop it."""
    return subprocess.run(
        [sys.executable, "-m", "local_agent"],
        cwd=ROOT,
        env=clean_environment({f"LOCAL_AGENT_{name.upper()}": value for name, value in settings.items()}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_start_names_a_taken_port_and_its_setting() -> None:
    """A port in use is one line that names the cause and the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = start(port=str(taken.getsockname()[1]))
    assert ended.returncode == 1
    assert "LOCAL_AGENT_PORT" in ended.stderr
    assert "uses this port" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_start_refuses_an_unknown_model() -> None:
    """A model that does not exist stops the start and lists those that do."""
    ended = start(model="gpt-5", port="0")
    assert ended.returncode == 2
    assert "local_mistral-7b-instruct-q4, local_smollm2-135m-instruct" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_start_names_a_bad_setting() -> None:
    """A value that is no number is named by its variable."""
    ended = start(port="many")
    assert ended.returncode == 2
    assert ended.stderr.startswith("local_agent: LOCAL_AGENT_PORT: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_by_signal_is_clean(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end with code 0, without a traceback, also while the model is loading."""
    port = free_port()
    log = tmp_path / "log"
    command = [sys.executable, "-m", "local_agent"]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(agent_environment(port)), stdout=sink, stderr=sink
        )
        try:
            wait_until_ready(Service(process, f"http://127.0.0.1:{port}", log), "/healthz", 60)
            process.send_signal(number)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert "Traceback" not in log.read_text()


def test_uvicorn_serves_from_inside_the_folder(tmp_path: Path) -> None:
    """`uvicorn main:app` in `local_agent/` answers at once, refuses work politely, and stops with its worker."""
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)],
            cwd=ROOT / "local_agent",
            env=clean_environment(agent_environment(port)),
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            running = Service(process, f"http://127.0.0.1:{port}", log)
            wait_until_ready(running, "/healthz", 60)
            status = readiness(running)
            assert status["status"] == "unavailable"
            early = httpx.post(f"{running.url}/infer", json={"prompt": "Hi"}, trust_env=False)
            assert (early.status_code, early.json()["error"]["code"]) == (503, "overloaded")
            assert early.headers["retry-after"]
            entry = httpx.get(f"{running.url}/v1/models", trust_env=False).json()["data"][0]
            assert entry["loaded"] is False
            process.send_signal(signal.SIGINT)
            process.wait(30)
        finally:
            process.kill()
    listing = subprocess.run(["ps", "-p", str(status["worker_pid"])], capture_output=True, check=False)
    assert listing.returncode == 1
    assert "Traceback" not in log.read_text()


async def test_supervisor_reports_a_worker_that_cannot_load(tmp_path: Path) -> None:
    """A worker that cannot load is replaced, with the reason on display, and leaves nothing when stopped."""
    (tmp_path / "file").write_text("")
    configure = Configure(
        model="local_smollm2-135m-instruct",
        cache_dir=str(tmp_path / "file" / "below"),
        device="cpu",
        threads=1,
        max_running=1,
        log_level="ERROR",
    )
    supervisor = Supervisor(configure, dict(os.environ), Limits(1, 1, 10, 60))  # noqa: TID251
    task = asyncio.create_task(supervisor.run())
    await eventually(lambda: supervisor.status().restarts > 0)
    status = supervisor.status()
    task.cancel()
    await asyncio.wait((task,))
    assert not status.ready
    assert "NotADirectoryError" in str(status.last_error)
