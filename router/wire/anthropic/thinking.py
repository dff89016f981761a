"""How hard a model thinks: OpenAI's effort, Anthropic's thinking, either way.

Claude models before 4.6 take a budget of tokens, later ones an effort and think as they see fit; servers of other
models behind this dialect know the budget.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

__all__ = ["Thinking", "effort_asked", "effort_of", "thinking_for"]

_NO_THINKING = re.compile(r"claude-(?:instant|v?[12]\b|3-(?:haiku|sonnet|opus|5))")
_BUDGETED = re.compile(r"claude-(?:3-7|(?:opus|sonnet|haiku)-4(?:-[015])?(?:-\d{8}|-latest|[@:]|-v\d|$))")
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 32768}
_LEAST_BUDGET = 1024
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_CHAT_EFFORTS = {"xhigh": "high", "max": "high"}
"""Efforts that few chat servers know, and the next that all do."""


class Thinking(NamedTuple):
    """What a wished effort becomes; None leaves a field out."""

    thinking: dict[str, Any] | None = None
    effort: str | None = None
    change: str | None = None


def thinking_for(model: str, effort: str, max_tokens: int, *, forced: bool, unsigned: bool) -> Thinking:
    """Return what a model that is asked to think with an effort gets.

    Args:
        model: The backend's name of the model.
        effort: OpenAI's `reasoning_effort`.
        max_tokens: The answer's limit, which a budget must stay below.
        forced: Whether the model must call a tool, which it cannot after thinking.
        unsigned: Whether the last turn calls tools without the thinking that led there, which a budget forbids.
    """
    if effort == "none":
        return Thinking() if _NO_THINKING.search(model) else Thinking({"type": "disabled"})
    if effort not in _BUDGETS or _NO_THINKING.search(model):
        return Thinking(change="reasoning_effort dropped")
    if "claude" in model and not _BUDGETED.search(model):
        known = effort if effort in _EFFORTS else "low"
        change = None if known == effort else f"reasoning_effort set to {known}"
        return Thinking(None if forced else {"type": "adaptive"}, known, change)
    budget = min(_BUDGETS[effort], max_tokens - 1)
    if forced or unsigned or budget < _LEAST_BUDGET:
        return Thinking(change="reasoning_effort dropped")
    return Thinking({"type": "enabled", "budget_tokens": budget})


def effort_asked(effort: Any, reasoning: Any) -> str | None:
    """Return the effort that a chat request wishes, by `reasoning_effort` or a `reasoning` object."""
    if isinstance(effort, str):
        return effort
    if not isinstance(reasoning, dict):
        return None
    if reasoning.get("enabled") is False:
        return "none"
    if isinstance(wished := reasoning.get("effort"), str):
        return wished
    budget = reasoning.get("max_tokens")
    if isinstance(budget, int) and budget > 0:
        return _effort_for(budget)
    return "medium" if reasoning.get("enabled") is True else None


def effort_of(thinking: Any, config: Any, changes: list[str]) -> str | None:
    """Return the `reasoning_effort` for a Messages request's `thinking` and `output_config`."""
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    effort = config.get("effort") if isinstance(config, dict) else None
    if isinstance(effort, str) and kind != "disabled":
        if effort in _CHAT_EFFORTS:
            changes.append(f"output_config.effort set to {_CHAT_EFFORTS[effort]}")
        return _CHAT_EFFORTS.get(effort, effort)
    if effort is not None:
        changes.append("output_config.effort dropped")
    if kind == "enabled" and isinstance(budget := thinking.get("budget_tokens"), int):
        return _effort_for(budget)
    if kind is not None:
        changes.append("thinking dropped")
    return None


def _effort_for(budget: int) -> str:
    if budget <= _BUDGETS["low"]:
        return "low"
    return "medium" if budget <= _BUDGETS["medium"] else "high"
