"""A fresh host for each test, and the entrance of the cluster that it becomes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts.k3s.entrance import Entrance, entrance
from tests.scripts.k3s.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A fresh x86_64 host without a GPU."""
    return Host(tmp_path)


@pytest.fixture
def cluster(host: Host) -> Iterator[Entrance]:
    """What answers at the entrance of the host's cluster once llm-d runs."""
    with entrance() as server:
        host.port = server.server_port
        yield server


# k3s is Linux's, and so are the tools that its scripts take for granted.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]
