"""Real vLLM: only where it is asked for (`make test-vllm`), in an environment of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.vllm.environment import Environment
from scripts.vllm.processes import LORA, Engine, engine

ASKED = "TEST_VLLM"
"""`make test-vllm` sets it: a test run of other kinds needs no vLLM, which takes gigabytes and minutes."""
_SECONDS = 1200
"""For one test: vLLM takes a minute to start, and several where others work on the same machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of it, unless it is asked for."""
    asked = os.environ.get(ASKED) == "1"  # noqa: TID251 - the target's own switch
    skip = pytest.mark.skip(reason=f"starts real vLLM in an environment of its own: make test-vllm ({ASKED}=1)")
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(_SECONDS) if asked else skip)


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A worker that lives through all tests, with an adapter."""
    if not Environment().ready:
        pytest.fail("vLLM is not installed: `python -m scripts.vllm` makes its environment")
    with engine(tmp_path_factory.mktemp("worker"), *LORA) as running:
        yield running
