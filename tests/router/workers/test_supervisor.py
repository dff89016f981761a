"""The parent, over workers of a few lines: what it does when they fail, hang or are told to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.process import ROOT

KEEPER = """
import sys
from router.workers.supervisor import Supervisor
worker, count, options = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])
command = lambda number, link: [sys.executable, "-c", worker, str(number), str(link)]
sys.exit(Supervisor(command, count, **options).run())
"""
WORKER = """
import os, pathlib, signal, socket, sys
number, link = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
def serve():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    link.send(b"+")
    while link.recv(100):
        link.send(b".")
"""


class Keeper:
    """A running parent and what it has said."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def lines(self, message: str = "") -> list[dict[str, Any]]:
        """The JSON lines so far whose message begins like that."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["message"].startswith(message)]

    def wait_for(self, message: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many lines have come."""
        until = time.monotonic() + 30
        while len(found := self.lines(message)) < count:
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.01)
        return found


@contextmanager
def keeping(folder: Path, worker: str, count: int = 2, **options: float) -> Iterator[Keeper]:
    """Run a parent over workers that run `worker` after the common lines."""
    log = folder / "log"
    command = [sys.executable, "-c", KEEPER, WORKER + worker, str(count), repr(options)]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, stderr=sink)
    try:
        yield Keeper(process, log)
    finally:
        process.kill()
        process.wait(10)


def test_supervisor_ends_where_no_worker_can_start(tmp_path: Path) -> None:
    """A fault that every worker meets ends everything, in one line."""
    with keeping(tmp_path, "sys.exit(7)") as keeper:
        assert keeper.process.wait(30) == 1
        said = keeper.log.read_text().splitlines()
    assert len(said) == 1
    assert "before it could serve" in said[0]
    assert "status 7" in said[0]


def test_supervisor_replaces_with_pauses_what_keeps_failing(tmp_path: Path) -> None:
    """A worker that comes back broken is tried again and again, ever more slowly; the others go on."""
    once = f"flag = pathlib.Path({str(tmp_path)!r}, 'came')\n"
    once += "if number == 1:\n    sys.exit(5) if flag.exists() else flag.touch()\n"
    once += "    link.send(b'+'); sys.exit(4)\nserve()"
    with keeping(tmp_path, once) as keeper:
        ended = keeper.wait_for("worker ended", 3)
        assert [line["worker"] for line in ended[:3]] == [1, 1, 1]
        pauses = [line["restart_in"] for line in ended]
        assert pauses[0] == 0
        assert pauses == sorted(pauses)
        assert pauses[2] > pauses[1] > 0
        keeper.process.terminate()
        assert keeper.process.wait(30) == 0


def test_supervisor_replaces_a_worker_that_hangs(tmp_path: Path) -> None:
    """A loop that no longer answers is killed; the process that replaces it serves."""
    hang = f"flag = pathlib.Path({str(tmp_path)!r}, 'hung')\n"
    hang += "if number == 0 and not flag.exists():\n    flag.touch(); link.send(b'+'); signal.pause()\nserve()"
    with keeping(tmp_path, hang, stall=0.2) as keeper:
        keeper.wait_for("worker serves", 3)
        assert [line["worker"] for line in keeper.lines("worker hangs")] == [0]
        assert [line["message"] for line in keeper.lines("worker was")] == ["worker was ended by SIGKILL"]
        keeper.process.send_signal(signal.SIGINT)
        assert keeper.process.wait(30) == 0


def test_supervisor_ends_a_worker_that_does_not_start(tmp_path: Path) -> None:
    """A start has a limit as well."""
    with keeping(tmp_path, "signal.pause()", start=0.1) as keeper:
        assert keeper.process.wait(30) == 1
        assert "SIGKILL before it could serve" in keeper.log.read_text()


def test_supervisor_kills_what_outlives_the_drain(tmp_path: Path) -> None:
    """A second signal leaves a worker that heeds none of them a few seconds, and no more."""
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nlink.send(b'+')\nwhile link.recv(9): link.send(b'.')"
    with keeping(tmp_path, stubborn, count=1) as keeper:
        keeper.wait_for("worker serves")
        keeper.process.terminate()
        keeper.wait_for("draining")
        keeper.process.terminate()
        assert keeper.process.wait(30) == 1
        assert keeper.lines("ending at once")
