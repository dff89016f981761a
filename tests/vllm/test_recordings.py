"""What vLLM and Envoy say now has the form of what they said when it was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.vllm.exchange import Exchange
from scripts.vllm.scenes import GROUPS, play
from tests.support.cluster_recordings import recording


def form(value: Any) -> Any:
    """Return what a JSON value is made of: its keys and types, and of a list each form once."""
    if isinstance(value, dict):
        return {name: form(item) for name, item in sorted(value.items())}
    if isinstance(value, list):
        return sorted({json.dumps(form(item)) for item in value})
    return type(value).__name__


def body_of(exchange: Exchange) -> Any:
    """Return the form of a body: that of its JSON or of the events of a stream; a text as it is."""
    kind = dict(exchange.headers).get("content-type", "")
    if kind.startswith("text/event-stream"):
        return form([event if event == "[DONE]" else json.loads(event) for event in exchange.events])
    return form(json.loads(exchange.body)) if kind == "application/json" else exchange.body


def shape(exchange: Exchange) -> dict[str, Any]:
    """Return all of an answer that a router may rely on."""
    moments = ("date", "content-length")
    return {
        "status": exchange.status,
        "headers": sorted(pair if pair[0] not in moments else (pair[0], "") for pair in exchange.headers),
        "body": body_of(exchange),
        "ends": exchange.ends,
    }


@pytest.mark.parametrize("group", GROUPS)
async def test_recordings_are_true(tmp_path: Path, group: str) -> None:
    """Each scene is played again; `python -m scripts.vllm --record` records what has changed."""
    now, then = {}, {}
    async for name, exchange in play(tmp_path, group):
        now[name], then[name] = shape(exchange), shape(recording(name))
    assert now == then
