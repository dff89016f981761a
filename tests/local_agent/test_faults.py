"""What happens when the worker dies, hangs, or is left alone, with real processes and real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.support.agent import agent_process, readiness
from tests.support.process import Service

LONG = {"prompt": "Write a very long story about a dragon.", "max_tokens": 4000, "temperature": 0}
SHORT = {"prompt": "What is the capital of France?", "max_tokens": 16, "temperature": 0}


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until a condition holds; fail when it never does."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the condition never held"
        time.sleep(0.02)


def exists(pid: int) -> bool:
    """Return whether a process lives (a zombie does not)."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.strip().startswith("Z")


def generated(client: httpx.Client) -> float:
    """Return how many tokens the agent's workers have generated."""
    match = re.search(r"^local_agent_generated_tokens_total (\S+)", client.get("/metrics").text, re.MULTILINE)
    assert match
    return float(match.group(1))


def queue_of(client: httpx.Client) -> tuple[int, int]:
    """Return how many requests run and wait."""
    queue = client.get("/readyz").json()["queue"]
    return queue["running"], queue["queued"]


def read_stream(client: httpx.Client, body: dict[str, Any], begun: threading.Event) -> list[str]:
    """Read a stream to its end and return the data of its events."""
    data = []
    with client.stream("POST", "/infer", json={**body, "stream": True}) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: "):
                data.append(line.removeprefix("data: "))
                begun.set()
    return data


class Fragile:
    """An agent that tests may kill: two turns at a time, two places in the queue."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._service: Service | None = None

    def alive(self) -> Service:
        """Return the agent, started anew if a test has killed it."""
        if self._service is None or self._service.process.poll() is not None:
            settings = {"max_running": "2", "queue_limit": "2", "stall_timeout_s": "4", "shutdown_grace_s": "1"}
            self._service = self._stack.enter_context(agent_process(**settings))
        return self._service


@pytest.fixture(scope="module")
def holder() -> Iterator[Fragile]:
    """One fragile agent for the whole module, as long as it lives."""
    with ExitStack() as stack:
        yield Fragile(stack)


@pytest.fixture
def fragile(holder: Fragile) -> Service:
    """The fragile agent."""
    return holder.alive()


@pytest.fixture
def client(fragile: Service) -> Iterator[httpx.Client]:
    """A client of the fragile agent, which is ready and idle."""
    with httpx.Client(base_url=fragile.url, timeout=90, trust_env=False) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        wait_for(lambda: queue_of(client) == (0, 0))
        yield client


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests that run while the test acts."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_worker_killed_tells_the_running_and_keeps_the_waiting(
    fragile: Service, client: httpx.Client, threads: ThreadPoolExecutor
) -> None:
    """Kill -9 of the worker: begun answers end with a clear error, waiting requests are answered afterwards."""
    restarts = client.get("/readyz").json()["restarts"]
    begun = threading.Event()
    streamed: Future[list[str]] = threads.submit(read_stream, client, LONG, begun)
    assert begun.wait(60)
    before = generated(client)
    whole = threads.submit(client.post, "/infer", json=LONG)
    wait_for(lambda: queue_of(client)[0] == 2)
    wait_for(lambda: generated(client) > before + 8)  # turns alternate: both have begun
    waiting = threads.submit(client.post, "/infer", json=SHORT)
    wait_for(lambda: queue_of(client) == (2, 1))

    old = readiness(fragile)["worker_pid"]
    assert isinstance(old, int)
    os.kill(old, signal.SIGKILL)

    *texts, last = streamed.result(timeout=60)
    assert texts
    error = json.loads(last)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "engine_restarted"
    assert "[DONE]" not in texts
    failed = whole.result(timeout=60)
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "engine_restarted")
    assert failed.headers["retry-after"]
    survived = waiting.result(timeout=90)
    assert (survived.status_code, survived.json()["text"]) == (200, "The capital of France is Paris.")
    status = readiness(fragile)
    assert status["worker_pid"] != old
    assert status["restarts"] == restarts + 1


def test_worker_hung_is_killed_and_replaced(
    fragile: Service, client: httpx.Client, threads: ThreadPoolExecutor
) -> None:
    """A worker that gives no sign of life is killed; the next request works."""
    begun = threading.Event()
    streamed = threads.submit(read_stream, client, LONG, begun)
    assert begun.wait(60)
    old = readiness(fragile)["worker_pid"]
    assert isinstance(old, int)
    os.kill(old, signal.SIGSTOP)
    assert json.loads(streamed.result(timeout=60)[-1])["error"]["code"] == "engine_restarted"
    answer = client.post("/infer", json=SHORT)
    assert (answer.status_code, answer.json()["text"]) == (200, "The capital of France is Paris.")
    assert not exists(old)
    assert "no sign of life" in str(readiness(fragile)["last_error"])


def test_full_queue_is_refused_with_retry_after(client: httpx.Client, threads: ThreadPoolExecutor) -> None:
    """One request more than runs and waits is a 503 that says when to come back; leaving frees every place."""
    leave = threading.Event()

    def hold() -> None:
        with client.stream("POST", "/infer", json={**LONG, "stream": True}) as response:
            for _ in response.iter_lines():
                if leave.is_set():
                    return

    held = [threads.submit(hold) for _ in range(2)]
    wait_for(lambda: queue_of(client)[0] == 2)
    with httpx.Client(base_url=client.base_url, timeout=0.5, trust_env=False) as impatient:
        queued = [threads.submit(impatient.post, "/infer", json=LONG) for _ in range(2)]
        wait_for(lambda: queue_of(client) == (2, 2))
        refused = client.post("/infer", json=SHORT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        for left in queued:  # a client that leaves while it waits gives its place back
            with pytest.raises(httpx.ReadTimeout):
                left.result(timeout=60)
    wait_for(lambda: queue_of(client) == (2, 0))
    leave.set()  # clients that leave in mid-stream free the slots at the next token
    for future in held:
        future.result(timeout=60)
    wait_for(lambda: queue_of(client) == (0, 0))


def test_client_that_leaves_stops_a_whole_answer(client: httpx.Client) -> None:
    """A client that gives up on an answer that is not streamed stops the generation."""
    with httpx.Client(base_url=client.base_url, timeout=0.5, trust_env=False) as impatient:
        with pytest.raises(httpx.ReadTimeout):
            impatient.post("/infer", json=LONG)
    wait_for(lambda: queue_of(client) == (0, 0))
    done = generated(client)
    assert client.post("/infer", json={**SHORT, "max_tokens": 1}).status_code == 200
    assert generated(client) == done + 1


def test_agent_killed_leaves_no_worker(fragile: Service, client: httpx.Client, threads: ThreadPoolExecutor) -> None:
    """Kill -9 of the agent in the middle of a generation: its worker goes too."""
    begun = threading.Event()
    streamed = threads.submit(read_stream, client, LONG, begun)
    assert begun.wait(60)
    worker = readiness(fragile)["worker_pid"]
    assert isinstance(worker, int)
    fragile.process.kill()
    fragile.process.wait(10)
    with pytest.raises(httpx.TransportError):
        streamed.result(timeout=60)
    wait_for(lambda: not exists(worker))


def test_agent_stopped_tells_the_running_and_the_waiting(
    fragile: Service, client: httpx.Client, threads: ThreadPoolExecutor
) -> None:
    """SIGTERM with work in hand: after the grace everybody gets a proper error, and no process is left."""
    begun = threading.Event()
    streamed = threads.submit(read_stream, client, LONG, begun)
    assert begun.wait(60)
    worker = readiness(fragile)["worker_pid"]
    assert isinstance(worker, int)
    others = [threads.submit(client.post, "/infer", json=LONG) for _ in range(2)]
    wait_for(lambda: queue_of(client) == (2, 1))
    fragile.process.send_signal(signal.SIGTERM)
    assert fragile.process.wait(30) == 0
    assert json.loads(streamed.result(timeout=60)[-1])["error"]["code"] == "overloaded"
    for other in others:
        assert (other.result(60).status_code, other.result(60).json()["error"]["code"]) == (503, "overloaded")
    assert not exists(worker)
