"""The rules of failure on a live router: what falls over, what is tried again, what opens a breaker, what is told."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from router.registry.manifest import InvalidManifest, parse_manifest
from tests.router.api.test_chat import assert_openai_error
from tests.support.router import live_router, manifest_for
from tests.support.upstream import (
    Script,
    ScriptedReply,
    SeenRequest,
    chunk,
    completion,
    fail,
    say,
    scripted_upstream,
)

ROLE = {"role": "assistant", "content": ""}
BROKEN = {"error": {"message": "CUDA out of memory", "type": "server_error", "code": 500}}


# --- the commit point -------------------------------------------------------------------------------


def streamed(*events: Any, end: bool = True) -> Script:
    """Return a script that streams events; bytes go out as they are."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        for event in events:
            await (reply.send(event) if isinstance(event, bytes) else reply.event(event))
        if end:
            await reply.end_stream()
        else:
            reply.cut()

    return script


def whole(body: bytes, content_type: str) -> Script:
    """Return a script that answers 200 with whatever body."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.body(body, headers={"content-type": content_type})

    return script


SILENT = [chunk(ROLE), chunk({"content": ""}), chunk(None, usage={"prompt_tokens": 1, "completion_tokens": 0})]
LYING = {
    **{f"an error after {n} empty chunks": (True, streamed(*SILENT[:n], BROKEN, "[DONE]")) for n in range(4)},
    "an event named error": (True, streamed(chunk(ROLE), b'event: error\ndata: {"error": {"message": "x"}}\n\n')),
    "an error as text": (True, streamed({"error": "out of memory"})),
    "an end without a word": (True, streamed(chunk(ROLE), end=False)),
    "nothing but comments": (True, streamed(b": ping\n\n", b": ping\n\n")),
    "no JSON": (True, streamed("<html>502 Bad Gateway</html>")),
    "HTML for a stream": (True, whole(b"<html>login</html>", "text/html")),
    "JSON for a stream": (True, whole(json.dumps(completion("x")).encode(), "application/json")),
    "HTML": (False, whole(b"<html>login</html>", "text/html")),
    "an error object": (False, whole(json.dumps(BROKEN).encode(), "application/json")),
    "truncated JSON": (False, whole(json.dumps(completion("x")).encode()[:-9], "application/json")),
    "no choices": (False, whole(b'{"id": "x", "choices": []}', "application/json")),
    "an empty body": (False, whole(b"", "application/json")),
}


@pytest.mark.parametrize("lie", LYING)
async def test_success_that_is_none_falls_over_without_a_trace(tmp_path: Path, lie: str) -> None:
    """A 200 that holds no answer is a failed attempt; the client sees the next one's answer and nothing else."""
    stream, script = LYING[lie]
    async with scripted_upstream(script) as bad, scripted_upstream(say("saved")) as good:
        async with live_router(tmp_path, manifest_for(bad.url, good.url)) as router:
            answer = await router.chat(stream=stream)
            plain = await router.chat(stream=stream, headers={"x-router-fallback": "off"})
    assert answer.status_code == 200
    assert (answer.headers["x-router-backend"], answer.headers["x-router-attempts"]) == ("b1", "2")
    for trace in ("CUDA", "html", "memory", "ping"):
        assert trace not in answer.text
    if stream:
        assert answer.text.count('"role"') == 1
        assert answer.text.endswith("data: [DONE]\n\n")
    assert plain.status_code == 502
    assert_openai_error(plain, "upstream_unavailable")


# --- one coherent answer, or an error -----------------------------------------------------------------


@pytest.mark.parametrize("words", [1, 2, 5])
async def test_two_different_answers_are_never_joined(tmp_path: Path, words: int) -> None:
    """After a cut somebody who says something else is not believed: what was said, then one error event."""
    said = [chunk({"content": f"one{number} "}) for number in range(words)]
    async with scripted_upstream(streamed(chunk(ROLE), *said, end=False)) as cut:
        async with scripted_upstream(say("something else entirely")) as other:
            async with live_router(tmp_path, manifest_for(cut.url, other.url)) as router:
                answer = await router.chat(stream=True)
    events = [event for event in answer.text.split("\n\n") if event]
    text = "".join(json.loads(e[6:])["choices"][0]["delta"].get("content") or "" for e in events[:-1])
    assert text == "".join(f"one{number} " for number in range(words))
    assert json.loads(events[-1][6:])["error"]["code"] == "stream_interrupted"
    assert "[DONE]" not in answer.text
    assert len(cut.requests) + len(other.requests) <= 3


# --- second tries ---------------------------------------------------------------------------------------


def once(first: Script, then: Script | None = None) -> Script:
    """Return a script that does one thing for the first request and another for all others."""
    count = 0

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        nonlocal count
        count += 1
        await (first if count == 1 else then or say("again"))(request, reply)

    return script


async def reset(_request: SeenRequest, reply: ScriptedReply) -> None:
    """Drop the connection without an answer."""
    reply.cut()


PASSING = {
    "a reset": reset,
    "a 500": fail(500),
    "a 503": fail(503),
    "a short Retry-After": fail(429, headers={"retry-after": "0"}),
    "a short Retry-After of a 503": fail(503, headers={"retry-after": "1"}),
}


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_may_have_passed_is_tried_a_second_time(tmp_path: Path, fault: str, stream: bool) -> None:
    """Where there is nobody else, a fault of a moment costs a second try and no error."""
    async with scripted_upstream(once(PASSING[fault])) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            answer = await router.chat(stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-router-attempts"] == "2"


LASTING = {
    "a long Retry-After": (fail(429, headers={"retry-after": "30"}), 429, "upstream_rate_limited", "30"),
    "a 429 without a word": (fail(429), 429, "upstream_rate_limited", None),
    "a long Retry-After of a 503": (fail(503, headers={"retry-after": "30"}), 503, "upstream_unavailable", "30"),
    "a bad key": (fail(401), 502, "upstream_unauthorized", None),
    "the caller's mistake": (fail(422), 422, None, None),
    "an unknown model": (fail(404), 404, None, None),
}


@pytest.mark.parametrize("fault", LASTING)
async def test_what_lasts_is_tried_once_and_told_at_once(tmp_path: Path, fault: str) -> None:
    """Neither the caller's mistake nor a long rest is tried again or slept on; `Retry-After` reaches the client."""
    script, status, code, wait = LASTING[fault]
    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            answer = await asyncio.wait_for(router.chat(), 10)
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, wait)
    assert_openai_error(answer, code)
    assert len(upstream.requests) == 1


async def test_short_retry_after_beyond_the_deadline_is_not_waited_for(tmp_path: Path) -> None:
    """A second that the request does not have is not spent."""
    async with scripted_upstream(fail(429, headers={"retry-after": "1"})) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            answer = await router.chat(headers={"x-router-deadline-ms": "500"})
    assert answer.status_code == 429
    assert len(upstream.requests) == 1


async def test_attempts_are_one_budget_for_everything(tmp_path: Path) -> None:
    """Deployments, fallback models, second tries and resumption together never exceed the budget."""
    cut = streamed(chunk(ROLE), chunk({"content": "half"}), end=False)
    for script, attempts in ((fail(500), 3), (reset, 4), (cut, 3)):
        async with scripted_upstream(script) as first, scripted_upstream(script) as second:
            text = manifest_for(first.url, second.url) + "    fallbacks: [other]\n"
            text += (
                "  - {id: other, deployments: [{backend: b0, upstream_model: o}, {backend: b1, upstream_model: o}]}\n"
            )
            folder = tmp_path / f"{attempts}-{script.__name__}-{id(script)}"
            folder.mkdir()
            async with live_router(folder, text, attempts=attempts) as router:
                await router.chat(stream=True)
            assert len(first.requests) + len(second.requests) == attempts


def test_fallbacks_in_a_circle_are_refused() -> None:
    """No request can go round: a manifest with a circle, of any length and through aliases, is not loaded."""
    for fallbacks in ((["b"], ["a"]), (["a"], []), (["b-alias"], ["a"])):
        models = [
            {"id": name, "aliases": [f"{name}-alias"], "fallbacks": names}
            for name, names in zip("ab", fallbacks, strict=True)
        ]
        with pytest.raises(InvalidManifest, match="circle"):
            parse_manifest(json.dumps({"models": models}))


# --- time-outs ------------------------------------------------------------------------------------------


async def silence(request: SeenRequest, _reply: ScriptedReply) -> None:
    """Say nothing until the router leaves."""
    await request.closed_early.wait()


def stalled(*events: Any) -> Script:
    """Return a script that streams some events and then says nothing more."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        for event in events:
            await reply.event(event)
        await request.closed_early.wait()

    return script


TIMEOUTS = [
    ("first_token", True, silence, "first-token"),
    ("first_token", True, stalled(chunk(ROLE)), "first-token"),
    ("total", True, silence, "total"),
    ("total", False, silence, "total"),
]


@pytest.mark.parametrize(("name", "stream", "script", "told"), TIMEOUTS)
async def test_each_timeout_fires_alone(tmp_path: Path, name: str, stream: bool, script: Script, told: str) -> None:
    """A silent backend is left after the one limit that is short, and that is the one that is told."""
    async with scripted_upstream(script) as upstream:
        text = manifest_for(upstream.url, timeouts=f"{{{name}: 0.1}}")
        async with live_router(tmp_path, text) as router:
            answer = await router.chat(stream=stream)
            await asyncio.wait_for(upstream.requests[0].closed_early.wait(), 10)
    assert answer.status_code == 504
    assert assert_openai_error(answer, "upstream_timeout")["message"] == f"The backend exceeded its {told} limit."
    assert len(upstream.requests) == 1  # silence is not tried again


@pytest.mark.parametrize(("name", "told"), [("idle", "idle"), ("total", "total")])
async def test_limits_within_a_stream_end_it_with_their_name(tmp_path: Path, name: str, told: str) -> None:
    """After the first word the pause between two events counts, and the whole."""
    async with scripted_upstream(stalled(chunk({"role": "assistant", "content": "half"}))) as upstream:
        text = manifest_for(upstream.url, timeouts=f"{{{name}: 0.2}}")
        async with live_router(tmp_path, text) as router:
            answer = await router.chat(stream=True, n=2)
    last = json.loads(answer.text.split("\n\n")[-2][6:])["error"]
    assert last["code"] == "stream_interrupted"
    assert last["message"] == f"The answer was cut off. The backend exceeded its {told} limit."


@contextmanager
def deaf_port() -> Iterator[int]:
    """Yield a port that accepts no connection and refuses none: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_connect_timeout_fires_alone_and_the_next_answers(tmp_path: Path) -> None:
    """A backend that does not even accept costs its connect limit, not the first token's."""
    with deaf_port() as port:
        async with scripted_upstream(say("saved")) as good:
            text = manifest_for(f"http://127.0.0.1:{port}/v1", good.url, timeouts="{connect: 0.1}")
            async with live_router(tmp_path, text) as router:
                answer = await router.chat(stream=True)
                assert (answer.headers["x-router-backend"], answer.headers["x-router-attempts"]) == ("b1", "2")
                alone = await router.chat(headers={"x-router-fallback": "off"})
    assert alone.status_code == 504
    assert "did not accept a connection" in assert_openai_error(alone, "upstream_timeout")["message"]
