"""The garbage collector after the start."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from shared.collector import calm_collector


@pytest.fixture
def collector() -> Iterator[None]:
    """Leave the collector as it was."""
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_calm_collector_leaves_out_what_is_loaded() -> None:
    """What exists is frozen; what comes later is still collected."""
    calm_collector()
    assert gc.get_freeze_count() > 10_000
    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    assert gc.collect() >= 1
