"""A stream that survives: cut at every event, between every pair of tiers, with the real agent and SmolLM2."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.agent import MODEL, agent_process, readiness
from tests.support.process import Service
from tests.support.router import LiveRouter, live_router
from tests.support.upstream import Script, ScriptedReply, SeenRequest, scripted_upstream

QUESTION = "What is the capital of France? Answer in one short sentence."
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": QUESTION}],
    "temperature": 0,
    "max_tokens": 24,
    "stream": True,
    "router": {"cache": "off"},
}
TIERS = {"local": ("local_agent", "/infer", ""), "cluster": ("openai", "/v1/chat/completions", "/v1")}
"""Tier to dialect, the path that its answers come from, and what its base URL ends in.

An external provider that can continue a text speaks as the cluster does.
"""
PAIRS = [*product(TIERS, TIERS), ("external", "local"), ("external", "cluster")]


@pytest.fixture(scope="module")
def agent() -> Iterator[Service]:
    """A ready agent."""
    with agent_process() as running:
        yield running


def recorded(agent: Service, path: str) -> list[bytes]:
    """Return the events of the agent's own uncut answer, one by one."""
    body = {key: value for key, value in ASKED.items() if key != "router"} | {"model": MODEL}
    answer = httpx.post(f"{agent.url}{path}", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return [event + b"\n\n" for event in answer.content.split(b"\n\n") if event.strip()]


def breaks_off(events: list[bytes]) -> Script:
    """Return a script that says these events and then drops the connection."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        for event in events:
            await reply.send(event)
        reply.cut()

    return script


def manifest(first: str, first_url: str, second: str, second_url: str) -> str:
    """Return a manifest: one model, first on the backend that breaks off, then on the agent."""
    lines = ["backends:"]
    for name, tier, url in (("broken", first, first_url), ("sound", second, second_url)):
        dialect, _, ending = TIERS.get(tier, TIERS["cluster"])
        base = url.removesuffix("/v1") + ending
        lines.append(
            f"  - {{name: {name}, dialect: {dialect}, base_url: '{base}', tier: {tier}, breaker: {{enabled: false}}}}"
        )
    return "\n".join(lines) + f"""
models:
  - id: m
    capabilities: [chat, messages, prefill]
    deployments:
      - {{backend: broken, upstream_model: {MODEL}, priority: 0}}
      - {{backend: sound, upstream_model: {MODEL}, priority: 1}}
"""


async def told(router: LiveRouter) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of one stream, which must end with `[DONE]`."""
    body = ASKED | {"model": "m", "stream_options": {"include_usage": True}}
    async with router.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        last = ""
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                last = line[6:]
                if last != "[DONE]":
                    yield json.loads(last)
        assert last == "[DONE]"


def text_of(events: list[dict[str, Any]]) -> str:
    """Return what a stream says."""
    assert not any("error" in event for event in events), events
    choices = [event["choices"][0] for event in events if event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{a} to {b}" for a, b in PAIRS])
async def test_stream_cut_at_every_event_says_what_an_uncut_one_says(
    agent: Service, tmp_path: Path, first: str, second: str
) -> None:
    """Greedy decoding by the same model: the joint is found in no answer."""
    events = await asyncio.to_thread(recorded, agent, TIERS.get(first, TIERS["cluster"])[1])
    async with scripted_upstream(breaks_off(events)) as broken:
        async with live_router(tmp_path, manifest(first, broken.url, second, agent.url)) as router:
            uncut = [event async for event in told(router)]
            text = text_of(uncut)
            assert "Paris" in text
            for count in range(1, len(events)):
                broken.script = breaks_off(events[:count])
                again = [event async for event in told(router)]
                assert text_of(again) == text, count
                assert len({event["id"] for event in again if event["choices"]}) == 1
                usages = [events[-1]["usage"] for events in (again, uncut) if events[-1].get("usage")]
                assert all(usage == usages[-1] for usage in usages)


async def test_killed_agent_is_continued_by_another_tier(agent: Service, tmp_path: Path) -> None:
    """`kill -9` of an agent in the middle of its answer: the client sees one whole answer."""
    with agent_process() as doomed:
        text = f"{manifest('local', doomed.url, 'cluster', agent.url)}"
        async with live_router(tmp_path, text) as router:
            whole = text_of([event async for event in told(router)])
            seen: list[dict[str, Any]] = []
            async for event in told(router):
                seen.append(event)
                if len(seen) == 3:
                    os.kill(int(str(readiness(doomed)["worker_pid"])), signal.SIGKILL)
                    doomed.process.kill()
            assert text_of(seen) == whole
            after = [event async for event in told(router)]
            assert text_of(after) == whole
