"""Real vLLM behind the chart's Envoy behind a router process, asked by real clients: all is well."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import anthropic
import openai
import pytest

from scripts.vllm.model import CONTEXT, SENTENCE
from scripts.vllm.processes import ADAPTER, MODEL, Engine
from tests.support.cluster_recordings import billed, recording, replays, text_of
from tests.support.upstream import scripted_upstream
from tests.support.waiting import eventually
from tests.vllm.cluster import LONG, cluster, counted, declared

TOKENS = 34
"""Of the sentence and its end."""


async def test_models_are_discovered(worker: Engine, tmp_path: Path) -> None:
    """The model, its adapter, and the context that is in force."""
    async with cluster(tmp_path, worker) as there:
        models = await there.models()
    assert sorted(models) == [MODEL, ADAPTER]
    assert {item["context_length"] for item in models.values()} == {CONTEXT}


@pytest.mark.parametrize("model", [MODEL, ADAPTER])
async def test_chat_is_answered_and_billed(worker: Engine, tmp_path: Path, model: str) -> None:
    """The SDK gets the model's own words, and the row has vLLM's own count."""
    async with cluster(tmp_path, worker) as there:
        answer = await there.chat(model=model)
    assert answer.choices[0].message.content == SENTENCE
    assert (answer.model, answer.choices[0].finish_reason) == (model, "stop")
    (row,) = billed(tmp_path)
    told = answer.usage
    assert (row["prompt_tokens"], row["completion_tokens"]) == (told.prompt_tokens, told.completion_tokens)
    assert (row["usage_source"], row["error"]) == ("reported", None)


@pytest.mark.parametrize("asked", [True, False])
async def test_stream_is_billed_by_what_vllm_counts(worker: Engine, tmp_path: Path, asked: bool) -> None:
    """Usage is told only to those who ask; it is always billed."""
    options = {"stream_options": {"include_usage": True}} if asked else {}
    async with cluster(tmp_path, worker) as there:
        chunks = [chunk async for chunk in await there.chat(stream=True, **options)]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == SENTENCE
    assert [chunk.usage is not None for chunk in chunks if not chunk.choices] == [True] * asked
    (row,) = billed(tmp_path)
    assert row["usage_source"] == "reported"
    assert row["completion_tokens"] == TOKENS


async def test_anthropic_clients_are_answered(worker: Engine, tmp_path: Path) -> None:
    """Anthropic's SDK, whole and streamed."""
    async with cluster(tmp_path, worker) as there:
        async with anthropic.AsyncAnthropic(base_url=there.router.url, api_key="any", max_retries=0) as client:
            ask = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
            whole = await client.messages.create(**ask)
            async with client.messages.stream(**ask) as stream:
                streamed = await stream.get_final_message()
    for message in (whole, streamed):
        assert "".join(block.text for block in message.content) == SENTENCE
        assert message.stop_reason == "end_turn"
        assert message.usage.output_tokens > 30


@pytest.mark.parametrize("times", [1100, 4500], ids=["by its tokens", "by its characters"])
async def test_prompt_that_is_too_long_is_told(worker: Engine, tmp_path: Path, times: int) -> None:
    """Both ways in which vLLM says so become OpenAI's own code, streamed or not."""
    messages = [{"role": "user", "content": "Once upon a time " * times}]
    async with cluster(tmp_path, worker) as there:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as refused:
                await there.chat(messages=messages, stream=stream)
            assert refused.value.code == "context_length_exceeded"
            assert refused.value.type == "invalid_request_error"


async def test_model_that_nobody_serves_is_told(worker: Engine, tmp_path: Path) -> None:
    """The router knows by itself what the cluster serves."""
    async with cluster(tmp_path, worker) as there:
        with pytest.raises(openai.NotFoundError) as refused:
            await there.chat(model="nobody")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize("fields", [{"min_p": 7}, {"top_k": "many"}], ids=str)
async def test_what_vllm_refuses_is_told_in_its_words(
    worker: Engine, tmp_path: Path, fields: dict[str, object]
) -> None:
    """A value that only vLLM knows about is the caller's fault, and names its field."""
    async with cluster(tmp_path, worker) as there:
        with pytest.raises(openai.BadRequestError) as refused:
            await there.chat(extra_body=fields)
    (name,) = fields
    assert name in refused.value.message
    assert refused.value.body.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_client_that_leaves_frees_the_worker(worker: Engine, tmp_path: Path, stream: bool) -> None:
    """The worker stops at once: it has a free place again, long before it has said all that was asked for."""
    before = await counted(worker, "vllm:generation_tokens_total")

    async def running() -> bool:
        return await counted(worker, "vllm:num_requests_running") > 0

    async def idle() -> bool:
        return not await running()

    async with cluster(tmp_path, worker) as there:
        asking = asyncio.create_task(there.events(**LONG) if stream else there.chat(**LONG))
        await eventually(running)
        asking.cancel()
        await asyncio.wait((asking,))
        await eventually(idle)
    assert await counted(worker, "vllm:generation_tokens_total") - before < LONG["max_tokens"]


async def test_text_that_broke_off_is_continued(worker: Engine, tmp_path: Path) -> None:
    """A worker goes on where another worker was killed: no character is missing, none comes twice."""
    async with scripted_upstream(replays("worker_killed_stream")) as killed:
        manifest = declared(killed.url.removesuffix("/v1"), "URL")
        async with cluster(tmp_path, worker, manifest) as there:
            events = await there.events()
    assert events[-1] == "[DONE]"
    said, text = text_of(recording("worker_killed_stream").events), text_of(events)
    assert text == SENTENCE * math.ceil(len(said) / len(SENTENCE))
    (row,) = billed(tmp_path)
    assert row["error"] is None
    places = [attempt["deployment"] for attempt in json.loads(row["attempts"])]
    assert places == [f"{MODEL}@b0", f"{MODEL}@b1"]
