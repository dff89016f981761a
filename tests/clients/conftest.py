"""The client libraries: only where they are asked for (`make test-clients`), each in its own environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ASKED = "TEST_CLIENTS"
"""`make test-clients` sets it: a test run of other kinds needs no network and no other environment."""

collect_ignore_glob = ["programs/*"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what drives a client, unless it is asked for."""
    if os.environ.get(ASKED) == "1":  # noqa: TID251 - the target's own switch
        return
    skip = pytest.mark.skip(reason=f"drives client libraries in their own environments: make test-clients ({ASKED}=1)")
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(skip)
