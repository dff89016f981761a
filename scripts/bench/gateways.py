"""What is measured: gateways in front of the mock, each started by one command."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scripts.bench.processes import Running
from scripts.bench.workloads import MODEL, body

__all__ = ["NO_KEY", "PATH", "Absent", "Gateway", "NotReady", "ask", "await_first_answer", "direct", "start"]

PATH = "/v1/chat/completions"
NO_KEY = "sk-bench-000000000000000000000000000000000000000000000"


class NotReady(Exception):
    """A gateway did not answer in time; the message holds its last words."""


@dataclass(frozen=True, slots=True)
class Absent:
    """A gateway that is not measured.

    Args:
        name: Which.
        reason: Why, and what to do about it; one line.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway and how it is run.

    Args:
        name: What it is called in results.
        port: Where it listens on 127.0.0.1.
        command: What starts it; empty: the mock itself, asked directly.
        environment: Its whole environment.
        folder: Where it runs.
        version: What was measured.
        remark: How it was set up.
        key: Sent as bearer token, also where nobody checks it, so that requests are equally long.
        only: The workloads that it is measured with; empty: all but those that are for others only.
        alone: How often it is started alone, for start time and memory.
        open_streams: Whether its memory for open streams is measured.
        patience: Seconds that it may take to its first answer.
    """

    name: str
    port: int
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    version: str = ""
    remark: str = ""
    key: str = NO_KEY
    only: frozenset[str] = frozenset()
    alone: int = 0
    open_streams: bool = True
    patience: float = 30.0

    def measures(self, workload: str) -> bool:
        """Return whether a workload is run for this gateway."""
        return workload in self.only if self.only else workload not in _FOR_SOME


_FOR_SOME = frozenset({"policy-64"})
"""Workloads that only gateways which name them can do."""


def direct(port: int) -> Gateway:
    """Return the mock upstream as a gateway: what the load generator and the mock cost by themselves."""
    return Gateway("direct", port, remark="no gateway: the mock upstream itself")


def ask(gateway: Gateway, request: bytes, seconds: float = 5.0) -> tuple[int, bytes]:
    """Send one request; return the status and the answer.

    Raises:
        OSError: Nothing listens, or the answer does not come.
        http.client.HTTPException: The answer is no HTTP.
    """
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=seconds)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {gateway.key}"}
        connection.request("POST", PATH, request, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def start(gateway: Gateway, logs: Path, core: int | None) -> tuple[Running, float]:
    """Start a gateway and return it with the seconds it took to its first proxied answer.

    Raises:
        NotReady: It ended, or did not answer in time; it is not running any more.
    """
    began = time.monotonic()
    running = Running(
        gateway.command,
        logs / f"{gateway.name}.log",
        environment=gateway.environment,
        folder=gateway.folder,
        core=core,
    )
    try:
        return running, await_first_answer(gateway, running, began)
    except BaseException:
        running.stop()
        raise


def await_first_answer(gateway: Gateway, running: Running, began: float) -> float:
    """Ask until there is a good answer; return the seconds since `began`.

    Raises:
        NotReady: It ended, or did not answer in time.
    """
    request = body(400, model=MODEL)
    last = ""
    while time.monotonic() < began + gateway.patience:
        if not running.alive:
            break
        try:
            status, answer = ask(gateway, request)
        except (OSError, http.client.HTTPException) as error:
            last = f"{type(error).__name__}: {error}"
        else:
            if status == 200 and b"very words" in answer:
                return time.monotonic() - began
            last = f"status {status}: {answer[:200].decode('utf-8', 'replace')}"
        time.sleep(0.005)
    raise NotReady(f"{gateway.name} gave no answer ({last}). Its last words:\n{running.last_words()}")
