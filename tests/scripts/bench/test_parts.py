"""The parts of the benchmark that need no gateway."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.registry.manifest import parse_manifest
from router.registry.store import open_store
from scripts.bench.footprint import cpu_at_work, proportional_memory
from scripts.bench.meter import parse_ps, read_tree
from scripts.bench.ours import Registry, insert_keys, manifest
from scripts.bench.processes import Running, choose_cores, on_core
from scripts.bench.profile import shares
from scripts.bench.size import closure, router_only_mb
from scripts.bench.workloads import WORKLOADS, body
from tests.house.tree import ROOT


@given(st.integers(400, 60_000), st.booleans())
def test_body_has_the_size_that_is_asked_for(size: int, streamed: bool) -> None:
    """To the byte, and it is a chat request."""
    made = body(size, pace_us=20_000 if streamed else 0, chunks=64 if streamed else 0)
    assert len(made) == size
    request = json.loads(made)
    assert request["model"] == "mock-model"
    assert request["temperature"] > 0
    assert request.get("stream", False) is streamed
    assert ("pace:20000:64" in request["messages"][0]["content"]) is streamed
    assert {message["role"] for message in request["messages"][1:]} <= {"user"}


def test_bodies_of_all_workloads_can_be_made() -> None:
    """The mock looks for its flags at the start of a body only."""
    for workload in WORKLOADS.values():
        made = body(workload.size, pace_us=workload.pace_us, chunks=workload.chunks, model=workload.model or "m")
        assert len(made) == workload.size
        assert not workload.chunks or b'"stream":true' in made[:1000]


def test_tree_counts_threads_children_and_ended_children() -> None:
    """Whatever a gateway leaves its work to is counted, to far less than a tick."""
    program = (
        "import subprocess, sys, threading, time\n"
        "burn = 'import time\\nwhile time.process_time() < 0.3: pass'\n"
        "subprocess.run([sys.executable, '-c', burn])\n"
        "def spin():\n    while time.thread_time() < 0.3: pass\n"
        "one = threading.Thread(target=spin); one.start(); one.join()\n"
        "child = subprocess.Popen([sys.executable, '-c', burn + '\\nprint(1, flush=True)\\ntime.sleep(60)'])\n"
        "child.wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        used = read_tree(process.pid, memory=True)
    finally:
        os.killpg(process.pid, 9)
        process.communicate()
    assert used.cpu > 0.85
    assert used.memory > 1 << 20


def test_tree_of_nobody_is_empty() -> None:
    """A process that has ended uses nothing."""
    process = subprocess.Popen(["true"])
    process.wait()
    assert read_tree(process.pid).cpu == 0


def test_ps_is_read_in_the_forms_of_both_systems() -> None:
    """Hundredths on macOS, on Linux whole seconds and days; processes of others are not ours."""
    text = "  10     1   0:01.50  1000\n  11    10 00:00:02   500\n  12    11 1-00:00:01 1\n  13     1 0:09.00 9\n"
    used = parse_ps(text, 10)
    assert used.cpu == pytest.approx(1.5 + 2 + 86_401)
    assert used.memory == 1501 * 1024


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processor affinity")
def test_children_start_on_the_core_they_are_given(tmp_path: Path) -> None:
    """A program that counts processors at its start sees one."""
    before = os.sched_getaffinity(0)
    core = min(before)
    show = "import os; print(os.sched_getaffinity(0))"
    running = Running((sys.executable, "-c", show), tmp_path / "log", core=core)
    until = time.monotonic() + 20
    while running.alive and time.monotonic() < until:
        time.sleep(0.01)
    running.stop()
    assert running.last_words() == str({core})
    assert os.sched_getaffinity(0) == before
    cores = choose_cores()
    assert (cores.gateway is None) == (cores.load is None)
    assert cores.gateway is None or cores.gateway != cores.load
    with on_core(None):
        assert os.sched_getaffinity(0) == before


def test_stop_ends_the_whole_group(tmp_path: Path) -> None:
    """Grandchildren, and those that do not listen to SIGTERM, do not survive."""
    program = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "show = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
        "subprocess.run([sys.executable, '-c', show])\n"
    )
    running = Running((sys.executable, "-c", program), tmp_path / "log")
    until = time.monotonic() + 20
    while not running.last_words() and time.monotonic() < until:
        time.sleep(0.01)
    assert running.alive
    running.stop(grace=0.05)
    assert not running.alive
    state = ["ps", "-o", "state=", "-p", running.last_words()]
    # What init has not collected yet is a zombie.
    assert subprocess.run(state, capture_output=True, text=True, check=False).stdout.strip() in ("", "Z")


def test_registry_of_a_variant_is_a_valid_manifest() -> None:
    """Models, deployments with limits, and a policy to choose by."""
    parsed = parse_manifest(json.dumps(manifest(Registry(models=3, deployments=4), 9100)))
    assert [len(model.deployments) for model in parsed.models] == [4, 4, 4]
    assert all(one.limits.rpm and one.limits.max_concurrency for one in parsed.models[0].deployments)
    assert [policy.name for policy in parsed.policies] == ["bench-policy"]


def test_inserted_keys_open_the_router(tmp_path: Path) -> None:
    """They are rows like those that `routerctl` makes."""
    path = tmp_path / "models.db"
    open_store(path).close()
    insert_keys(path, (f"sk-{n}" for n in range(50)))
    store = open_store(path)
    try:
        rows = store.load().keys
    finally:
        store.close()
    assert {row["sha256"] for row in rows} == {hashlib.sha256(f"sk-{n}".encode()).hexdigest() for n in range(50)}
    assert all(row["revoked_at"] is None and row["models"] == ["*"] for row in rows)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_size_counts_what_the_router_needs_and_nothing_else() -> None:
    """Its dependencies' dependencies too, but no torch and no test tools."""
    needed = closure("inference-router")
    assert {"fastapi", "starlette", "pydantic-core", "uvloop", "genai-prices"} <= set(needed)
    assert not {"torch", "transformers", "pytest", "mkdocs", "inference-router"} & set(needed)
    assert 20 < router_only_mb(ROOT) < 200


def test_profile_counts_a_function_once_in_each_stack() -> None:
    """Recursion is not counted twice, and lines of a function are one."""
    table = shares(["main (a.py:1);f (a.py:2);f (a.py:3) 30", "main (a.py:1);g (b.py:9) 10", "nonsense"])
    assert "| `f (a.py)` | 75.0% | 75.0% |" in table
    assert "| `g (b.py)` | 25.0% | 25.0% |" in table


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_footprint_reads_cpu_and_memory_of_a_process() -> None:
    """CPU never goes back, and a process that works has used some; memory is more than the interpreter's core."""
    before = cpu_at_work(os.getpid())
    while (after := cpu_at_work(os.getpid())) == before:
        pass
    assert 0 < before < after
    assert proportional_memory(os.getpid()) > 1_000_000
    with pytest.raises(OSError, match=r"."):
        cpu_at_work(2**30)
