"""Anthropic's clients as tests play them."""

from __future__ import annotations

import json
from typing import Any

import httpx

from shared.sse import SSEReader
from tests.support import anthropic_upstream as claude
from tests.support.router import LiveRouter, manifest_for

SPEC = {"name": "Bash", "input_schema": {"type": "object"}}
CLAUDE_CODE: dict[str, Any] = {
    "model": "m",
    "max_tokens": 32000,
    "stream": True,
    "thinking": {"type": "adaptive", "display": "omitted"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "medium"},
    "metadata": {"user_id": '{"device_id":"d","session_id":"s"}'},
    "system": [{"type": "text", "text": "You are a CLI. " * 2500, "cache_control": {"type": "ephemeral"}}],
    "tools": [SPEC],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}],
}
"""What Claude Code sends, of its size."""


async def messages(router: LiveRouter, path: str = "/v1/messages", **fields: Any) -> httpx.Response:
    """Send a Messages request."""
    headers = fields.pop("headers", None)
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return await router.client.post(path, json=body, headers=headers)


def events_of(answer: httpx.Response) -> list[tuple[str | None, Any]]:
    """Return the events of a stream, each with its name; a chat stream's end is None."""
    read = [event for event in SSEReader().feed(answer.content) if event.data is not None]
    return [(e.event, None if e.data == b"[DONE]" else json.loads(e.data or b"")) for e in read]


def texts_of(answer: httpx.Response) -> str:
    """Return the text that a Messages stream says."""
    return "".join(event["delta"].get("text", "") for name, event in events_of(answer) if name == "content_block_delta")


def both(native: str, other: str) -> str:
    """Return a manifest with `m` at an Anthropic backend, `c` at an OpenAI one, and a policy over both."""
    ours, theirs = claude.manifest_for(native), manifest_for(other, models="c")
    (head, models), (more, others) = ours.split("models:\n"), theirs.split("models:\n")
    policy = "policies:\n  - {name: any, candidates: [m, c], weights: {cost: 1}}\n"
    return f"{head}{more.removeprefix('backends:')[1:]}models:\n{models}{others}{policy}"
