"""`python -m router`: what it refuses at start, and how it says so."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.process import ROOT, clean_environment, router_process


def start(tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the router with settings that must stop it."""
    settings = {"SQLITE_DB_PATH": str(tmp_path / "models.db"), "LOCAL_AGENT_URL": "off", "ROUTER_PORT": "0", **env}
    command = [sys.executable, "-m", "router"]
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment(settings), capture_output=True, text=True, timeout=60, check=False
    )


def test_start_refuses_an_open_door_to_the_network(tmp_path: Path) -> None:
    """Without a key the router listens on loopback only, and says what to do."""
    ended = start(tmp_path, ROUTER_HOST="0.0.0.0")
    assert ended.returncode == 2
    assert "routerctl keys create" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_start_names_a_taken_port_and_its_setting(tmp_path: Path) -> None:
    """A port in use is told in one line with the setting that moves it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = start(tmp_path, ROUTER_PORT=str(taken.getsockname()[1]))
    assert ended.returncode == 2
    assert "ROUTER_PORT" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_start_names_a_bad_setting(tmp_path: Path) -> None:
    """A setting that cannot be read is named."""
    ended = start(tmp_path, ROUTER_PORT="many")
    assert ended.returncode == 2
    assert "ROUTER_PORT" in ended.stderr


def test_start_names_a_redis_url_that_is_none(tmp_path: Path) -> None:
    """A `REDIS_URL` that can never work is told in one line, without what may be a password in it."""
    for url in ("nonsense", "http://:s3cret@host", "redis://:s3cret@host:port/0"):
        ended = start(tmp_path, REDIS_URL=url)
        assert ended.returncode == 2
        assert len(ended.stderr.strip().splitlines()) == 1
        assert "REDIS_URL" in ended.stderr
        assert "s3cret" not in ended.stderr


def test_start_refuses_a_bad_manifest(tmp_path: Path) -> None:
    """A manifest with a mistake stops the start, with file, line and field."""
    manifest = tmp_path / "models.yaml"
    manifest.write_text(
        "backends:\n  - name: x\n    dialect: morse\n    base_url: http://127.0.0.1:1\n    tier: local\n"
    )
    ended = start(tmp_path, ROUTER_REGISTRY_FILE=str(manifest))
    assert ended.returncode == 2
    assert "models.yaml:3" in ended.stderr
    assert "dialect" in ended.stderr


def test_router_process_stops_on_sigterm(tmp_path: Path) -> None:
    """A router that is told to stop ends by itself, with success."""
    with router_process(tmp_path) as running:
        assert httpx.get(running.url + "/healthz").json() == {"status": "ok"}
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(15) in (0, -signal.SIGTERM)
