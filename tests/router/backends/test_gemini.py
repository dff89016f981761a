"""Google's dialect on a live router: OpenAI's clients against a scripted Gemini server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.router.api.test_chat import assert_openai_error
from tests.support.gemini_upstream import answer, call, candidate, error, generates
from tests.support.router import live_router
from tests.support.upstream import ScriptedReply, ScriptedUpstream, SeenRequest, completion, scripted_upstream

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def manifest(url: str, *others: str, model: str = "gemini-3-flash") -> str:
    """Return a manifest with a Gemini server, and servers that speak OpenAI's dialect behind it."""
    backends = [f"  - {{name: g, dialect: gemini, base_url: '{url}', tier: external, api_key_env: SCRIPTED_KEY}}"]
    deployments = [f"      - {{backend: g, upstream_model: {model}, price: {{input: 1, output: 2}}}}"]
    for index, other in enumerate(others):
        backends.append(f"  - {{name: o{index}, dialect: openai, base_url: '{other}', tier: external}}")
        deployments.append(f"      - {{backend: o{index}, upstream_model: up, priority: {index + 1}}}")
    return "\n".join(["backends:", *backends, "models:", "  - id: m", "    deployments:", *deployments]) + "\n"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_KEY", "upstream-secret")


def root(upstream: ScriptedUpstream) -> str:
    """The server's address without a version."""
    return upstream.url.removesuffix("/v1")


@pytest.mark.parametrize("version", ["", "/v1beta", "/v1"])
async def test_gemini_gets_its_own_paths_and_key(tmp_path: Path, version: str) -> None:
    """Streamed or not, with or without a version in the address; the client's key stays here."""
    async with scripted_upstream(generates(answer(candidate("Hé")), [answer(candidate("Hé"))])) as upstream:
        async with live_router(tmp_path, manifest(root(upstream) + version)) as router:
            headers = {"authorization": "Bearer client-secret", "x-goog-api-key": "client-key"}
            plain = await router.chat(headers=headers, user="u")
            streamed = await router.chat(stream=True)
    assert plain.json()["choices"][0]["message"]["content"] == "Hé"
    assert plain.headers["x-router-changes"] == "user dropped"
    assert "x-router-changes" not in streamed.headers
    assert streamed.text.endswith("data: [DONE]\n\n")
    place = f"{version or '/v1beta'}/models/gemini-3-flash"
    assert [one.path for one in upstream.requests] == [
        f"{place}:generateContent",
        f"{place}:streamGenerateContent?alt=sse",
    ]
    for seen in upstream.requests:
        assert seen.headers["x-goog-api-key"] == "upstream-secret"
        assert "authorization" not in seen.headers
        assert "client-" not in str(seen.headers)
    assert upstream.requests[0].json == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


async def test_gemini_serves_a_tool_loop_of_the_openai_client(tmp_path: Path) -> None:
    """The client calls a tool out of a stream, sends the result back, and the signature comes back with it."""
    events = [
        answer(candidate({"text": "hm", "thought": True}, finish=None)),
        answer(candidate(call("f", {"a": 1}, thoughtSignature="c2ln"), call("f", {"a": 2}), finish=None)),
        answer(candidate("")),
    ]
    async with scripted_upstream(generates(answer(candidate("Done.")), events)) as upstream:
        async with live_router(tmp_path, manifest(root(upstream))) as router:
            client = AsyncOpenAI(base_url=f"{router.url}/v1", api_key="x", max_retries=0)
            asked: list[Any] = [{"role": "user", "content": "Go"}]
            tools: Any = TOOLS
            async with client.chat.completions.stream(model="m", messages=asked, tools=tools) as stream:
                final = await stream.get_final_completion()
            said = final.choices[0].message
            assert said.tool_calls is not None
            assert [one.function.arguments for one in said.tool_calls] == ['{"a":1}', '{"a":2}']
            assert final.choices[0].finish_reason == "tool_calls"
            results = [{"role": "tool", "tool_call_id": one.id, "content": "ok"} for one in said.tool_calls]
            history: list[Any] = [*asked, said.model_dump(exclude_none=True), *results]
            last = await client.chat.completions.create(model="m", messages=history, tools=tools)
            await client.close()
    assert last.choices[0].message.content == "Done."
    contents = upstream.requests[-1].json["contents"]
    assert contents[1]["parts"][0]["thoughtSignature"] == "c2ln"
    assert [part["functionResponse"]["response"] for part in contents[2]["parts"]] == [{"output": "ok"}] * 2


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, error(400, "INVALID_ARGUMENT", "No such field."), "invalid_argument"),
        (
            400,
            error(400, "INVALID_ARGUMENT", "API key expired.", {"reason": "API_KEY_INVALID"}),
            "upstream_unauthorized",
        ),
        (429, error(429, "RESOURCE_EXHAUSTED", "Quota", {"retryDelay": "7s"}), "upstream_rate_limited"),
        (500, error(500, "INTERNAL", "secret detail"), "upstream_unavailable"),
    ],
)
async def test_gemini_failures_are_told_in_openais_shape(
    tmp_path: Path, status: int, body: dict[str, Any], code: str
) -> None:
    """Whose fault it is decides the status, streamed or not; the wait that the details tell is handed on."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json(body, status)

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest(root(upstream))) as router:
            for stream in (False, True):
                refused = await router.chat(stream=stream)
                told = assert_openai_error(refused, code)
                assert refused.status_code == (
                    502 if code in ("upstream_unauthorized", "upstream_unavailable") else status
                )
                assert "secret" not in told["message"]
                if status == 429:
                    assert refused.headers["retry-after"] == "7"
                if code in ("upstream_rate_limited", "upstream_unauthorized"):
                    break  # the deployment is left alone for a while


async def test_gemini_stream_that_fails_falls_over_or_is_told(tmp_path: Path) -> None:
    """Before any output the next backend answers; behind some, one error event ends the stream."""
    early = generates(None, [answer(candidate(finish=None)), error(503, "UNAVAILABLE")])
    late = generates(None, [answer(candidate("half", finish=None)), error(503, "UNAVAILABLE")])
    cut = generates(None, [answer(candidate("half", finish=None))])
    async with scripted_upstream(early) as upstream, scripted_upstream() as other:
        async with live_router(tmp_path, manifest(root(upstream), other.url)) as router:
            saved = await router.chat(stream=True)
            assert "Hello" in saved.text
            assert saved.headers["x-router-backend"] == "o0"
            for script in (late, cut):
                upstream.script = script
                lines = (await router.chat(stream=True)).text.split("\n\n")
                events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
                assert events[1]["choices"][0]["delta"]["content"] == "half"
                assert events[-1]["error"]["code"] == "stream_interrupted"


async def test_gemini_leaves_to_others_what_it_cannot_carry(tmp_path: Path) -> None:
    """A part that the dialect has no place for goes to a backend that takes it; alone, the caller is told."""
    content = [{"type": "file", "file": {"file_id": "file-1"}}]
    messages = [{"role": "user", "content": content}]
    async with scripted_upstream(generates(None)) as upstream, scripted_upstream() as other:
        async with live_router(tmp_path, manifest(root(upstream), other.url)) as router:
            served = await router.chat(messages=messages)
            assert served.headers["x-router-backend"] == "o0"
            assert other.requests[0].json["messages"] == messages
    (tmp_path / "alone").mkdir()
    async with scripted_upstream(generates(completion("x"))) as upstream:
        async with live_router(tmp_path / "alone", manifest(root(upstream))) as router:
            refused = await router.chat(messages=messages)
            assert refused.status_code == 400
            assert_openai_error(refused, "not_carried", "messages[0].content[0].file.file_id")
            assert (await router.chat()).status_code == 502  # it answers in another dialect
