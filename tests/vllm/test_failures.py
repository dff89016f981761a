"""Real vLLM that is told to stop, or killed, amid a stream through the router."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from scripts.vllm.entrance import entrance
from scripts.vllm.model import SENTENCE
from scripts.vllm.processes import Engine, engine
from tests.support.cluster_recordings import billed, text_of
from tests.support.waiting import eventually
from tests.vllm.cluster import LONG, Cluster, cluster, declared, error_of

ENDS = {"told to stop": Engine.terminate, "killed": Engine.kill, "crashed": Engine.crash}
"""What becomes of a worker."""


async def broken_off(there: Cluster, worker: Engine, end: str) -> list[str]:
    """Return the events of a stream amid which a worker ends."""
    events: list[str] = []
    async for event in there.told(**LONG):
        events.append(event)
        if len(events) == 10:
            await asyncio.to_thread(ENDS[end], worker)
    return events


@pytest.mark.parametrize("end", ENDS)
async def test_worker_that_ends_alone(tmp_path: Path, end: str) -> None:
    """The stream ends with one error and never with `[DONE]`, is billed once, and the worker's return is noticed."""
    started = engine(tmp_path)
    worker = await asyncio.to_thread(started.__enter__)
    async with cluster(tmp_path, worker) as there:
        *events, last = await broken_off(there, worker, end)
        assert error_of(last)["code"] == "stream_interrupted"
        assert not any(error_of(event) for event in events)
        said = text_of(events)
        assert (SENTENCE * 200).startswith(said)
        assert said
        await asyncio.to_thread(started.__exit__, None, None, None)
        again = engine(tmp_path, port=worker.port)
        await asyncio.to_thread(again.__enter__)
        try:

            async def answers() -> bool:
                answer = await there.http.post("/v1/chat/completions", json=_ASK)
                return answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == SENTENCE

            await eventually(answers, 60)
        finally:
            await asyncio.to_thread(again.__exit__, None, None, None)
    row = billed(tmp_path)[0]
    assert (row["error"], row["stream"]) == ("stream_interrupted", 1)
    assert row["completion_tokens"] > 0
    assert len([other for other in billed(tmp_path) if other["error"] == "stream_interrupted"]) == 1


_ASK = {"model": "recital", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("end", ENDS)
async def test_stream_survives_its_worker(worker: Engine, tmp_path: Path, end: str) -> None:
    """Another worker goes on with it: the text is the one that an unbroken stream tells, to the character."""
    started = engine(tmp_path)
    doomed = await asyncio.to_thread(started.__enter__)
    try:
        async with entrance(worker.port) as other:
            manifest = declared("URL", other.envoy.url)
            async with cluster(tmp_path, doomed, manifest) as there:
                events = await broken_off(there, doomed, end)
    finally:
        await asyncio.to_thread(started.__exit__, None, None, None)
    assert events[-1] == "[DONE]"
    assert not any(error_of(event) for event in events)
    text = text_of(events)
    assert (SENTENCE * 200).startswith(text)
    assert len(text) > len(SENTENCE) * 10
    (row,) = billed(tmp_path)
    assert row["error"] is None
    assert row["completion_tokens"] > 0
