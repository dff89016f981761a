"""Token counts: every spelling in use, and what cannot be read."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from router.types import Usage
from router.wire.usage import read_usage


@pytest.mark.parametrize(
    ("reported", "read"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 5}, Usage(7, 5)),
        ({"prompt_tokens": 7, "total_tokens": 7}, Usage(7, 0)),
        ({"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(7, 0, 7)),
        ({"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 2}}, Usage(0, 5, 0, 2)),
        ({"input_tokens": 4, "output_tokens": 9, "total_tokens": 13}, Usage(4, 9)),
        ({"total_tokens": 6}, Usage(6, 0)),
        ({"type": "duration", "seconds": 3}, None),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": "many"}, None),
        ({}, None),
        (None, None),
        ([1], None),
    ],
)
def test_usage_is_read_as_far_as_it_can_be(reported: Any, read: Usage | None) -> None:
    """Counts under any of the names are read; anything else is no report."""
    assert read_usage(msgspec.Raw(json.dumps(reported).encode())) == read
