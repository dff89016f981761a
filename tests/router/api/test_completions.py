"""`POST /v1/completions` on a live router: OpenAI backends get it as it is, agents as `/infer`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.router.api.test_chat import assert_openai_error
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, scripted_upstream

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def text(piece: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """Return an answer, or a chunk of one."""
    choice = {"index": 0, "text": piece, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "up-0", "choices": [choice], **more}


async def backend(request: SeenRequest, reply: ScriptedReply) -> None:
    """Answer as a server of legacy completions."""
    if not request.json.get("stream"):
        await reply.json(text(" world", "length", usage=USAGE, kept={"as": "it is"}))
        return
    await reply.start_stream()
    await reply.event(text(" wor"))
    await reply.event(text("ld", "length"))
    if request.json["stream_options"]["include_usage"]:
        await reply.event(text("", usage=USAGE) | {"choices": []})
    await reply.event("[DONE]")
    await reply.end_stream()


async def complete(router: LiveRouter, **body: Any) -> Any:
    """Send a request for a completion."""
    return await router.client.post("/v1/completions", json={"model": "m", "prompt": "Hello", **body})


async def test_completions_pass_in_both_directions(tmp_path: Path) -> None:
    """A prompt in any of its forms reaches the backend as it is, and the answer comes back as it is."""
    async with scripted_upstream(backend) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        for prompt in ("Hello", ["Hello", "Hi"], [1, 2, 3], [[1, 2], [3]], None):
            answer = await complete(router, prompt=prompt, suffix="!", echo=True, logprobs=2, best_of=2, x={"y": 1})
            assert answer.json() == text(" world", "length", usage=USAGE, kept={"as": "it is"})
            seen = upstream.requests[-1]
            assert seen.path == "/v1/completions"
            assert seen.json["prompt"] == prompt
            assert seen.json | {"prompt": 0} == {
                "model": "up-0",
                "prompt": 0,
                "suffix": "!",
                "echo": True,
                "logprobs": 2,
                "best_of": 2,
                "x": {"y": 1},
            }
            assert answer.headers["x-router-cost-usd"] == "0.000007"


async def test_completions_stream_hides_the_usage_that_nobody_asked_for(tmp_path: Path) -> None:
    """The usage chunk comes with `include_usage` alone; the router counts it in any case."""
    async with scripted_upstream(backend) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        client = openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0)
        for asked in (False, True):
            options: Any = {"stream_options": {"include_usage": True}} if asked else {}
            stream = await client.completions.create(model="m", prompt="Hello", stream=True, **options)
            chunks = [chunk async for chunk in stream]
            assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == " world"
            assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == ([5] if asked else [])
            assert upstream.requests[-1].json["stream_options"] == {"include_usage": True}
        await client.close()
        raw = (await complete(router, stream=True)).text
        assert raw.endswith("data: [DONE]\n\n")
        assert raw.count("[DONE]") == 1


async def test_completions_name_the_model_that_a_policy_chose(tmp_path: Path) -> None:
    """Who asked for a policy reads the chosen model's id, streamed or not."""
    async with scripted_upstream(backend) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        assert (await complete(router, model="auto")).json()["model"] == "m"
        raw = (await complete(router, model="auto", stream=True)).text
        events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
        assert {event["model"] for event in events} == {"m"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a", {"b": 1}]}, "prompt[1]"),
        ({"prompt": [[1], ["x"]]}, "prompt[1][0]"),
        ({"prompt": [1, "x"]}, "prompt[1]"),
        ({"n": 0}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"echo": 1}, "echo"),
    ],
)
async def test_completions_refuse_what_no_backend_could_read(
    tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    """A documented field with a wrong type is a 400 that names it."""
    async with live_router(tmp_path) as router:
        refused = await complete(router, **fields)
        assert refused.status_code == 400
        assert_openai_error(refused, "invalid_request", param)


async def test_completions_need_a_prompt(tmp_path: Path) -> None:
    """A prompt may be null, and may not be missing."""
    async with live_router(tmp_path) as router:
        refused = await router.client.post("/v1/completions", json={"model": "m"})
        assert refused.status_code == 400
        assert_openai_error(refused, "invalid_request", "prompt")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"<html>", 502),
        (b'{"choices":[]}', 502),
        (b'{"error":{"message":"bad suffix","code":400}}', 400),
        (b'{"choices":[{"text":"a","index":0', 502),
    ],
)
async def test_completions_tell_an_answer_that_is_none(tmp_path: Path, body: bytes, status: int) -> None:
    """Whatever is no completion becomes an error in OpenAI's shape."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.body(body, headers={"content-type": "application/json"})

    async with scripted_upstream(script) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        refused = await complete(router)
        assert refused.status_code == status
        assert refused.json()["error"]["message"]


AGENT = """
backends:
  - {{name: mac, dialect: local_agent, base_url: "{url}", tier: local}}
models:
  - id: m
    capabilities: {capabilities}
    deployments: [{{backend: mac, upstream_model: theirs, price: {{input: 0, output: 0}}}}]
"""


async def agent(request: SeenRequest, reply: ScriptedReply) -> None:
    """Answer as an agent."""
    if request.path != "/infer":
        await reply.json({"error": "no such route"}, 404)
    elif not request.json["stream"]:
        await reply.json({"text": " world", "finish_reason": "length", "usage": USAGE})
    else:
        await reply.start_stream()
        await reply.event({"text": " wor"})
        await reply.event({"text": "ld"})
        await reply.event({"text": "", "done": True, "finish_reason": "length", "usage": USAGE})
        await reply.event("[DONE]")
        await reply.end_stream()


async def test_completions_reach_an_agent_as_a_prompt(tmp_path: Path) -> None:
    """An agent gets the prompt as it is; what its payload has no words for is told in a header."""
    async with scripted_upstream(agent) as upstream:
        manifest = AGENT.format(url=upstream.url.removesuffix("/v1"), capabilities="[completions, messages]")
        async with live_router(tmp_path, manifest) as router:
            answer = await complete(router, presence_penalty=1, seed=7, user="u")
            assert answer.headers["x-router-changes"] == "presence_penalty dropped"
            whole = answer.json()
            assert (whole["object"], whole["choices"][0]["text"], whole["usage"]["total_tokens"]) == (
                "text_completion",
                " world",
                5,
            )
            seen = [request.json for request in upstream.requests if request.path == "/infer"]
            assert seen[-1] == {
                "prompt": "Hello",
                "max_tokens": 16,
                "temperature": 0.7,
                "stream": False,
                "model": "theirs",
                "seed": 7,
            }
            client = openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0)
            stream = await client.completions.create(
                model="m", prompt="Hello", stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == " world"
            assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
            assert chunks[-1].usage is not None
            assert {chunk.object for chunk in chunks} == {"text_completion"}
            await client.close()


@pytest.mark.parametrize(
    "fields",
    [{"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"suffix": "!"}, {"echo": True}, {"logprobs": 1}, {"n": 2}],
)
async def test_completions_that_an_agent_cannot_give_are_not_asked_of_it(tmp_path: Path, fields: Any) -> None:
    """Lists, token ids, a suffix, an echo, logprobs and several choices need a backend that has words for them."""
    async with scripted_upstream(agent) as upstream:
        manifest = AGENT.format(url=upstream.url.removesuffix("/v1"), capabilities="[completions, messages]")
        async with live_router(tmp_path, manifest) as router:
            refused = await complete(router, **fields)
            assert refused.status_code == 400
            assert_openai_error(refused, "no_candidate")
            assert not [request for request in upstream.requests if request.path == "/infer"]
