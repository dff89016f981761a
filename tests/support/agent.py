"""A real local agent with the embedded SmolLM2, on a free port."""

from __future__ import annotations

import asyncio
import getpass
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.process import Service, free_port, service

MODEL = "local_smollm2-135m-instruct"


def agent_cache() -> Path:
    """Return a folder that outlives the test run, so that the model is converted once per machine."""
    return Path(tempfile.gettempdir()) / f"inference-router-tests-{getpass.getuser()}"


def agent_environment(port: int, **settings: str) -> dict[str, str]:
    """Return the environment of an agent for tests: SmolLM2, one thread, and `LOCAL_AGENT_<name>` settings."""
    own = {"host": "127.0.0.1", "port": str(port), "model": MODEL, "threads": "1", "device": "cpu", **settings}
    cache = {"LOCAL_AGENT_CACHE_DIR": str(agent_cache())}
    return cache | {f"LOCAL_AGENT_{name.upper()}": value for name, value in own.items()}


@contextmanager
def agent_process(**settings: str) -> Iterator[Service]:
    """Run `python -m local_agent` until the context ends; it is ready when the context begins.

    Args:
        **settings: Settings by their name without `LOCAL_AGENT_`, in lower case.
    """
    port = free_port()
    environment = agent_environment(port, **settings)
    # The first start on a machine converts the model; on a busy one that takes a while.
    with service("local_agent", environment, f"http://127.0.0.1:{port}", "/readyz", seconds=110) as running:
        yield running


async def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition holds; fail when it never does."""
    for _ in range(round(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the condition never held")


def readiness(agent: Service) -> dict[str, object]:
    """Return the body of `/readyz`, whatever its status."""
    body: dict[str, object] = httpx.get(f"{agent.url}/readyz", timeout=10, trust_env=False).json()
    return body
