"""Values that cross a service boundary."""

from __future__ import annotations

from shared.types import Usage


def test_usage_adds_up_its_inclusive_buckets() -> None:
    """Cached and reasoning tokens are parts of their parents and count once."""
    usage = Usage(prompt_tokens=10, completion_tokens=4, cached_tokens=6, reasoning_tokens=3)
    assert usage.total_tokens == 14
    assert usage.openai() == {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
