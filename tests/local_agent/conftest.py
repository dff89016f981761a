"""One real agent per test process, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.agent import agent_process
from tests.support.process import Service


@pytest.fixture(scope="session")
def agent() -> Iterator[Service]:
    """A ready agent; tests must leave it as they find it."""
    with agent_process() as running:
        yield running


@pytest.fixture(scope="session")
def client(agent: Service) -> Iterator[httpx.Client]:
    """A client of the session's agent."""
    with httpx.Client(base_url=agent.url, timeout=60, trust_env=False) as client:
        yield client
