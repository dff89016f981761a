"""`make dev` with real child processes: start, watch, stop."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.dev.settings import inherited_environment

ROOT = Path(__file__).parents[2]


def _free_port() -> int:
    """Return a free port below those that systems give to outgoing connections, which come and go meanwhile."""
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Run:
    """One session in a process of its own, with stand-ins for the services."""

    def __init__(self, folder: Path, agent: str = "well", router: str = "well", redis_url: str | None = None) -> None:
        self.ports = {name: _free_port() for name in ("agent", "router", "valkey")}
        environment = {
            **inherited_environment(),
            "PYTHONPATH": str(ROOT),
            "ROUTER_PORT": str(self.ports["router"]),
            "LOCAL_AGENT_PORT": str(self.ports["agent"]),
            "REDIS_URL": redis_url or f"redis://127.0.0.1:{self.ports['valkey']}/0",
        }
        command = [sys.executable, "-m", "tests.scripts.stand_in", "--agent", agent, "--router", router]
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.text = ""

    def read_until(self, wanted: str) -> None:
        """Read output until a line holds `wanted`; fail with what there was when it ends first."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.text += line
            if wanted in line:
                return
        pytest.fail(f"{wanted!r} never came:\n{self.text}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the session alone."""
        self._process.send_signal(number)

    def finish(self) -> int:
        """Read the rest and return the exit status."""
        assert self._process.stdout is not None
        self.text += self._process.stdout.read()
        self._process.stdout.close()
        return self._process.wait()

    def pids(self) -> dict[str, int]:
        """Return the processes that it has started, by name."""
        return {name: int(pid) for name, pid in re.findall(r"started (\w+) \(process (\d+)", self.text)}

    def kill(self) -> None:
        """Leave nothing behind, whatever the test did."""
        for pid in self.pids().values():
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start sessions in an empty folder and clear up after them."""
    runs: list[Run] = []

    def begin(**how: str) -> Run:
        runs.append(Run(tmp_path, **how))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_session_stops_everything_on_a_signal(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    """One Ctrl-C or SIGTERM ends all three processes in order and the exit status is 0."""
    run = start()
    run.read_until("Ctrl-C stops everything")
    pids = run.pids()
    assert pids.keys() == {"valkey", "agent", "router"}
    assert all(map(_is_alive, pids.values()))

    run.send(number)

    assert run.finish() == 0
    assert "nothing is left running" in run.text
    assert not any(map(_is_alive, pids.values()))
    assert '"message": "listening"' in (tmp_path / ".dev" / "agent.log").read_text()


def test_session_prints_what_really_serves(start: Start) -> None:
    """The banner names the base URL, the model in use, why it is that one, and what is missing."""
    run = start()
    run.read_until("Ctrl-C stops everything")

    for expected in (
        f"http://127.0.0.1:{run.ports['router']}/v1",
        "Model: tiny-model on cpu",
        "instead of big-model: No GPU is here.",
        "Note: Redis is away",
        f"curl http://127.0.0.1:{run.ports['router']}/v1/chat/completions",
        "from openai import OpenAI",
        f"http://127.0.0.1:{run.ports['router']}/docs",
        "agent  │ downloading big-model 20 % of 100 MB",
        "agent  │ info listening port=",
    ):
        assert expected in run.text


def test_session_says_how_a_service_died_at_start(start: Start) -> None:
    """An agent that cannot start ends the session, with its last lines and its log's name."""
    run = start(agent="crash")

    assert run.finish() == 1
    assert "agent ended with status 3" in run.text
    assert "cannot find the weights" in run.text
    assert ".dev/agent.log" in run.text
    assert not any(map(_is_alive, run.pids().values()))


def test_session_ends_when_a_service_dies(start: Start) -> None:
    """A router that dies later ends the session too, with its last lines."""
    run = start()
    run.read_until("Ctrl-C stops everything")
    request = urllib.request.Request(f"http://127.0.0.1:{run.ports['router']}/die/7", method="POST")
    with pytest.raises(OSError, match=r"(?i)closed|reset"):
        urllib.request.urlopen(request)

    assert run.finish() == 1
    assert "router ended with status 7" in run.text
    assert "about to die" in run.text
    assert not any(map(_is_alive, run.pids().values()))


def test_session_goes_on_without_valkey(start: Start) -> None:
    """A Valkey that dies is reported and the services stay up."""
    run = start()
    run.read_until("Ctrl-C stops everything")
    os.kill(run.pids()["valkey"], signal.SIGKILL)
    run.read_until("goes on without its cache")

    assert "valkey was ended by SIGKILL" in run.text
    assert _is_alive(run.pids()["router"])
    run.send(signal.SIGINT)
    assert run.finish() == 0


def test_session_kills_on_the_second_signal(start: Start) -> None:
    """A service that ignores SIGTERM is gone at once after a second Ctrl-C."""
    run = start(router="stubborn")
    run.read_until("Ctrl-C stops everything")
    run.send(signal.SIGINT)
    run.read_until("once more to kill")
    run.send(signal.SIGINT)

    assert run.finish() == 0
    assert "was killed" not in run.text
    assert not any(map(_is_alive, run.pids().values()))


def test_session_leaves_no_grandchild(start: Start) -> None:
    """What a service has started ends with it, though it was never asked to."""
    run = start(agent="parent")
    run.read_until("Ctrl-C stops everything")
    found = re.search(r"grandchild (\d+)", run.text)
    assert found is not None
    run.send(signal.SIGTERM)

    assert run.finish() == 0
    grandchild = int(found[1])
    stat = Path(f"/proc/{grandchild}/stat")
    gone = not _is_alive(grandchild)
    zombie = stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"
    assert gone or zombie


def test_session_stops_while_starting(start: Start) -> None:
    """Ctrl-C before anything is ready leaves nothing behind either."""
    run = start()
    run.read_until("started agent")
    run.send(signal.SIGINT)

    assert run.finish() == 0
    assert not any(map(_is_alive, run.pids().values()))


def test_session_uses_a_redis_that_answers(start: Start) -> None:
    """No Valkey is started where one answers already."""
    first = start()
    first.read_until("Ctrl-C stops everything")
    second = start(redis_url=f"redis://127.0.0.1:{first.ports['valkey']}/0")
    second.read_until("Ctrl-C stops everything")

    assert "Redis answers at REDIS_URL; using it" in second.text
    assert "valkey" not in second.pids()


def test_session_replaces_a_redis_out_of_reach(start: Start) -> None:
    """For an address that is not plainly this machine's, the embedded one listens elsewhere, and that is said."""
    run = start(redis_url="redis://:secret@127.0.0.1:1/0")
    run.read_until("Ctrl-C stops everything")

    assert "stands in for it" in run.text
    assert "secret" not in run.text
