"""Why an answer ended, in either dialect's words."""

from __future__ import annotations

__all__ = ["finish_reason", "stop_reason"]

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def finish_reason(stop: str | None) -> str | None:
    """Return OpenAI's `finish_reason` for a `stop_reason`; None where there is none yet."""
    return None if stop is None else _FINISH.get(stop, "stop")


def stop_reason(finish: str | None, *, tools: bool = False, refused: bool = False) -> str:
    """Return the `stop_reason` for OpenAI's `finish_reason`.

    Args:
        finish: What the backend said, if anything.
        tools: Whether the answer calls a tool; several servers then still say `stop`.
        refused: Whether the answer is a refusal in words.
    """
    if refused:
        return "refusal"
    if tools and finish in (None, "stop"):
        return "tool_use"
    return _STOP.get(finish or "stop", "end_turn")
