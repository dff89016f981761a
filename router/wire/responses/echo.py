"""What a response repeats of its request, and how its ids are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["echo", "item_owner", "response_id"]

_NULL = msgspec.Raw(b"null")
_AUTO: Mapping[str, Any] = {
    "parallel_tool_calls": True,
    "store": True,
    "tool_choice": "auto",
    "tools": [],
    "metadata": {},
    "text": {"format": {"type": "text"}},
    "reasoning": {"effort": None, "summary": None},
    "truncation": "disabled",
    "top_logprobs": 0,
}
"""What the API itself takes where a request does not say."""
_ASKED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_p",
    "user",
)
"""Fields without a value of their own: what a model takes for its temperature, only its server knows."""
_MADE = ("msg_", "fc_", "ctc_", "rs_")


def echo(fields: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    """Return the part of a response that repeats what was asked."""
    told: dict[str, Any] = {name: fields.get(name, _NULL) for name in _ASKED}
    for name, default in _AUTO.items():
        given = fields.get(name, _NULL)
        told[name] = default if bytes(memoryview(given)[:4]) == b"null" else given
    if not isinstance(told["text"], dict):
        text = msgspec.json.decode(told["text"], type=dict[str, msgspec.Raw])
        told["text"] = {"format": {"type": "text"}, **{k: v for k, v in text.items() if bytes(v) != b"null"}}
    return told


def response_id(request_id: str) -> str:
    """Return the id of the response to a request."""
    return "resp_" + request_id.removeprefix("req_")


def item_owner(item_id: str) -> str | None:
    """Return the id of the response that made an item, or None where the id is not one of ours."""
    for prefix in _MADE:
        if item_id.startswith(prefix):
            owner, mark, _ = item_id[len(prefix) :].rpartition("-")
            return f"resp_{owner}" if mark else None
    return None
