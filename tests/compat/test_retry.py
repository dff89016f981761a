"""Retries and fallback: before the first byte only, bounded, and never for the caller's own mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.sdk import HELLO, events, world
from tests.support.upstream import Script, ScriptedReply, SeenRequest, chunk, fail, say


async def closing(_request: SeenRequest, reply: ScriptedReply) -> None:
    """Hang up without a word."""
    reply.cut()


FAULTS: dict[str, Script] = {
    "429": fail(429, headers={"retry-after": "30"}),
    "500": fail(500),
    "502": fail(502),
    "503": fail(503),
    "close": closing,
    "error in a 200": events({"error": {"message": "out of memory", "code": 500}}),
}


def once(fault: Script) -> Script:
    """Return a script that fails the first request alone."""
    failed = False

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        nonlocal failed
        if failed:
            await say("served")(request, reply)
        else:
            failed = True
            await fault(request, reply)

    return script


def text_of(answer: Any) -> str:
    """Return the text of a whole answer or of a list of chunks."""
    if isinstance(answer, list):
        return "".join(part.choices[0].delta.content or "" for part in answer if part.choices)
    return str(answer.choices[0].message.content)


@pytest.mark.parametrize("fault", ["500", "503", "close"])
@pytest.mark.parametrize("stream", [False, True])
async def test_one_off_failure_is_tried_again(tmp_path: Path, fault: str, stream: bool) -> None:
    """With one deployment alone, a failure that passes costs the client nothing."""
    async with world(tmp_path, once(FAULTS[fault])) as there:
        answer = await (there.stream() if stream else there.ask())
        assert text_of(answer) == "served"
        assert len(there.seen) == 2


async def test_short_retry_after_is_waited_for(tmp_path: Path) -> None:
    """A 429 that asks for no more than a moment is tried again, where nobody else can answer."""
    async with world(tmp_path, once(fail(429, headers={"retry-after": "0"}))) as there:
        assert text_of(await there.ask()) == "served"


@pytest.mark.parametrize("fault", sorted(FAULTS))
@pytest.mark.parametrize("stream", [False, True])
async def test_next_deployment_answers(tmp_path: Path, fault: str, stream: bool) -> None:
    """Whatever the first one does before its first output, the client gets the second one's answer, and only that."""
    if fault == "error in a 200" and not stream:
        pytest.skip("the fault is a stream's")
    async with world(tmp_path, FAULTS[fault], say("saved")) as there:
        answer = await (there.stream() if stream else there.ask())
        assert text_of(answer) == "saved"
        assert len(there.upstreams[1].requests) == 1


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
@pytest.mark.parametrize("stream", [False, True])
async def test_callers_mistake_is_tried_once(tmp_path: Path, status: int, stream: bool) -> None:
    """A 4xx about the request is final."""
    async with world(tmp_path, fail(status), say("no")) as there:
        with pytest.raises(openai.APIStatusError) as caught:
            await there.ask(stream=stream)
        assert caught.value.status_code == status
        assert [len(upstream.requests) for upstream in there.upstreams] == [1, 0]


async def test_nothing_is_spliced_after_the_first_output(tmp_path: Path) -> None:
    """Another deployment's different answer never follows the beginning of this one."""

    async def half(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"role": "assistant", "content": "Paris is"}))
        reply.cut()

    async with world(tmp_path, half, say("Completely different.")) as there:
        text = ""
        with pytest.raises(openai.APIError):
            async for part in await there.ask(stream=True):
                text += part.choices[0].delta.content or ""
        assert text == "Paris is"


@pytest.mark.parametrize("count", [1, 3])
async def test_attempts_are_bounded(tmp_path: Path, count: int) -> None:
    """However many deployments there are, the budget is the setting's."""
    async with world(tmp_path, *(fail(500) for _ in range(5)), attempts=count) as there:
        with pytest.raises(openai.InternalServerError):
            await there.ask()
        assert sum(len(upstream.requests) for upstream in there.upstreams) == count


async def test_long_retry_after_is_told_and_not_slept_on(tmp_path: Path) -> None:
    """The client hears of 30 seconds; the router does not spend them."""
    async with world(tmp_path, fail(429, headers={"retry-after": "30"}), deadline=20) as there:
        with pytest.raises(openai.RateLimitError) as caught:
            await there.ask()
        assert caught.value.response.headers["retry-after"] == "30"


async def test_each_upstream_gets_its_own_name_key_and_the_same_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one's request differs from the first one's in the model and the key alone."""
    monkeypatch.setenv("KEY_A", "sk-a-0123456789")
    monkeypatch.setenv("KEY_B", "sk-b-0123456789")
    manifest = """
backends:
  - {name: a, dialect: openai, base_url: 'URL0', tier: external, api_key_env: KEY_A}
  - {name: b, dialect: openai, base_url: 'URL1', tier: external, api_key_env: KEY_B}
models:
  - id: m
    deployments:
      - {backend: a, upstream_model: model-of-a, priority: 0}
      - {backend: b, upstream_model: vendor/model-of-b, priority: 1}
"""
    async with world(tmp_path, fail(503), say("saved"), manifest=manifest, attempts=2) as there:
        await there.ask(temperature=0.5, extra_body={"odd": [1]})
        (*_, first), (second,) = there.upstreams[0].requests, there.upstreams[1].requests
        rest = {"messages": HELLO, "temperature": 0.5, "odd": [1]}
        assert first.json == {"model": "model-of-a", **rest}
        assert second.json == {"model": "vendor/model-of-b", **rest}
        assert first.headers["authorization"] == "Bearer sk-a-0123456789"
        assert second.headers["authorization"] == "Bearer sk-b-0123456789"


async def test_load_is_spread_and_a_bad_deployment_is_hidden(tmp_path: Path) -> None:
    """Two equals both serve; when one fails, no client sees it, and soon it is asked no more."""
    manifest = """
backends:
  - {name: a, dialect: openai, base_url: 'URL0', tier: external, breaker: {failures: 2, cooldown: 600}}
  - {name: b, dialect: openai, base_url: 'URL1', tier: external}
models: [{id: m, deployments: [{backend: a}, {backend: b}]}]
"""
    async with world(tmp_path, say("a"), say("b"), manifest=manifest) as there:
        for _ in range(40):
            await there.ask()
        assert all(upstream.requests for upstream in there.upstreams)
        there.upstreams[0].script = fail(500)
        there.upstreams[0].requests.clear()
        for _ in range(40):
            assert text_of(await there.ask()) == "b"
        assert len(there.upstreams[0].requests) <= 4
