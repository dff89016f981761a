"""Value types that cross a service boundary."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

__all__ = ["Usage"]


class Usage(Struct, frozen=True):
    """Token counts of one answer.

    Buckets are inclusive parents: `prompt_tokens` contains `cached_tokens`, `completion_tokens`
    contains `reasoning_tokens`.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    source: Literal["reported", "estimated"] = "reported"

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion."""
        return self.prompt_tokens + self.completion_tokens

    def openai(self) -> dict[str, Any]:
        """Return OpenAI's `usage` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }
