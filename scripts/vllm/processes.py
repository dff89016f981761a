"""vLLM as a process of this machine: started on a free port, waited for, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from scripts.vllm.environment import Environment
from tests.support.process import Service, clean_environment, free_port, wait_until_ready

__all__ = ["ADAPTER", "LORA", "MODEL", "Engine", "engine"]

MODEL = "recital"
"""What the home-made model is called."""
ADAPTER = "recital-lora"
LORA = ("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"{ADAPTER}=adapter")
"""Arguments that serve the adapter too."""
_STARTS = 400.0
"""Seconds that vLLM may take to start: a minute on two idle cores, more where they are busy."""
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # One thread, on any core: the model is tiny, and others work here too.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


class Engine(Service):
    """A running vLLM."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def terminate(self) -> None:
        """Tell it to stop, as Kubernetes does: the process that speaks HTTP alone."""
        self.process.terminate()

    def kill(self) -> None:
        """End it and its workers at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def crash(self) -> None:
        """End the process that runs the model, and leave the one that speaks HTTP."""
        for child in _descendants(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found, frontier = [], {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found += sorted(frontier)
    return found


@contextmanager
def engine(folder: Path, *arguments: str, port: int | None = None) -> Iterator[Engine]:
    """Run vLLM with the home-made model until the context ends.

    Args:
        folder: Where its log goes.
        arguments: As vLLM spells them, beside those that name model and address.
        port: Where it listens; None: where it is free.
    """
    there = Environment()
    port = free_port() if port is None else port
    command = [str(there.python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--model", "model", "--served-model-name", MODEL, *arguments]
    home = there.folder / "home"
    home.mkdir(exist_ok=True)
    environment = clean_environment({**_OFFLINE, "HOME": str(home)})
    with _running(command, folder / f"vllm-{port}.log", port, there.folder, environment) as process:
        running = Engine(process.process, process.url, process.log)
        wait_until_ready(running, "/v1/models", _STARTS)
        yield running


@contextmanager
def _running(
    command: Sequence[str], log: Path, port: int, folder: Path, environment: Mapping[str, str]
) -> Iterator[Service]:
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Service(process, f"http://127.0.0.1:{port}", log)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(40)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
