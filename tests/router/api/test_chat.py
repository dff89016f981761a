"""`POST /v1/chat/completions` on a live router, in front of a scripted upstream."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.router import live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, completion, fail, say, scripted_upstream


async def test_chat_answers_with_the_upstreams_own_bytes(tmp_path: Path) -> None:
    """A whole answer passes through unchanged, unknown fields and all."""
    whole = json.dumps(completion("Grüße", extra_field={"a": [1, 2]}), ensure_ascii=False, indent=1).encode()

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.body(whole, headers={"content-type": "application/json"})

    async with scripted_upstream(script) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        answer = await router.chat()
        assert answer.status_code == 200
        assert answer.content == whole


async def test_chat_forwards_the_clients_bytes_with_the_upstreams_model(tmp_path: Path) -> None:
    """Only the model's value changes on the way up; odd spacing and unknown fields stay."""
    body = (
        b'{ "messages":[{"role":"user","content":"\\u00e9 \xc3\xa9"}],\n "x":{"model":"m"},"model" : "m" ,"user":"u"}'
    )
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        answer = await router.client.post("/v1/chat/completions", content=body)
        assert answer.status_code == 200, answer.text
        assert upstream.requests[0].body == body.replace(b'"model" : "m"', b'"model" : "up-0"')
        assert upstream.requests[0].path == "/v1/chat/completions"


async def test_chat_tells_who_answered_in_headers(tmp_path: Path) -> None:
    """Every answer names its request, decision, model, backend, attempts, cache state and cost."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        headers = (await router.chat()).headers
        assert headers["x-request-id"].startswith("req_")
        assert headers["x-router-decision-id"].startswith("dec_")
        assert headers["x-router-model"] == "m"
        assert headers["x-router-backend"] == "b0"
        assert headers["x-router-attempts"] == "1"
        assert headers["x-router-cache"] == "off"
        assert headers["x-router-cost-usd"] == "0.000017"
        assert float(headers["x-router-overhead-ms"]) >= 0


async def test_chat_streams_through_the_openai_sdk(tmp_path: Path) -> None:
    """The SDK reads a stream: text, finish reason, and the usage chunk where it asked for it."""
    async with scripted_upstream(say("one two three")) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            client = openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0)
            stream = await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "Hi"}],
                stream=True,
                stream_options={"include_usage": True},
            )
            events = [event async for event in stream]
            text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
            assert text == "one two three"
            assert events[-1].usage is not None
            assert events[-1].usage.total_tokens == 12
            assert [e.choices[0].finish_reason for e in events if e.choices and e.choices[0].finish_reason] == ["stop"]
            await client.close()


async def test_chat_hides_usage_that_nobody_asked_for(tmp_path: Path) -> None:
    """The router asks the upstream for usage; a client that did not ask sees none of it."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        answer = await router.chat(stream=True)
        assert upstream.requests[0].json["stream_options"] == {"include_usage": True}
        assert '"usage"' not in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")
        assert answer.headers["content-type"].startswith("text/event-stream")


async def test_chat_names_the_chosen_model_for_a_policy(tmp_path: Path) -> None:
    """A reply to a policy says which model answered; one to a concrete model keeps the upstream's name."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        assert (await router.chat(model="auto")).json()["model"] == "m"
        assert (await router.chat(model="m-alias")).json()["model"] == "upstream-model"
        streamed = await router.chat(model="auto", stream=True)
        models = {json.loads(line[6:])["model"] for line in streamed.text.split("\n\n")[:-2]}
        assert models == {"m"}


BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b'{"model": "m", "messages": [}', None),
    (b'{"model": "m", "messages": [{"role": "user", "content": "\xff"}]}', None),
    (b"[" * 5000, None),
    (b'{"model": "m"}', "messages"),
    (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
    (b'{"model": 3, "messages": [{"role": "user", "content": "x"}]}', "model"),
    (b'{"model": "", "messages": [{"role": "user", "content": "x"}]}', "model"),
    (b'{"model": "m", "messages": []}', "messages"),
    (b'{"model": "m", "messages": "hi"}', "messages"),
    (b'{"model": "m", "messages": [{"role": 1, "content": "x"}]}', "messages[0].role"),
    (b'{"model": "m", "messages": [{"role": "user", "content": 4}]}', "messages[0].content"),
    (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "max_tokens"),
    (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": "hot"}', "temperature"),
    (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": "yes"}', "stream"),
    (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "router": {"cache": "x"}}', "router.cache"),
]


async def test_chat_refuses_bad_bodies_and_keeps_serving(tmp_path: Path) -> None:
    """A body that cannot be served is a 400 that names the field, reaches nobody, and harms nothing."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        for body, param in BAD_BODIES:
            answer = await router.client.post("/v1/chat/completions", content=body)
            assert answer.status_code == 400, (body, answer.text)
            assert_openai_error(answer, "invalid_request", param)
        assert upstream.requests == []
        assert (await router.chat()).status_code == 200


def assert_openai_error(answer: httpx.Response, code: str | None, param: str | None = None) -> dict[str, Any]:
    """Check the envelope: all four keys, the code and the param."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["param"] == param
    return error


async def test_chat_waits_for_no_registry_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the snapshot does not know may be news, but not for longer than a moment."""
    gate = threading.Event()
    async with live_router(tmp_path) as router:
        monkeypatch.setattr("router.gateway.PATIENCE", 0.01)
        monkeypatch.setattr("router.registry.store.RegistryStore.stamp", lambda _store: gate.wait())
        try:
            unknown = await asyncio.wait_for(router.chat(model="nope"), 20)
        finally:
            gate.set()
    assert_openai_error(unknown, "model_not_found", "model")


async def test_chat_refuses_unknown_models_paths_methods_and_sizes(tmp_path: Path) -> None:
    """Each kind of wrong request has its own documented error."""
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), body_limit=2048) as router:
            unknown = await router.chat(model="nope")
            assert unknown.status_code == 404
            assert_openai_error(unknown, "model_not_found", "model")
            method = await router.client.get("/v1/chat/completions")
            assert method.status_code == 405
            assert_openai_error(method, "method_not_allowed")
            assert method.headers["allow"] == "OPTIONS, POST"
            path = await router.client.post("/v1/chat/nowhere", json={})
            assert path.status_code == 404
            assert_openai_error(path, "not_found")
            large = await router.chat("x" * 100_000)
            assert large.status_code == 413
            assert_openai_error(large, "request_too_large")
            packed = await router.client.post("/v1/chat/completions", content=b"x", headers={"content-encoding": "x"})
            assert packed.status_code == 415
            assert_openai_error(packed, "unsupported_media_type")
            assert (await router.chat()).status_code == 200


async def test_chat_falls_back_to_the_next_deployment(tmp_path: Path) -> None:
    """A failing first choice costs the client nothing but an attempt."""
    async with scripted_upstream(fail(500)) as bad, scripted_upstream(say("saved")) as good:
        async with live_router(tmp_path, manifest_for(bad.url, good.url)) as router:
            for stream in (False, True):
                answer = await router.chat(stream=stream)
                assert answer.status_code == 200
                assert "saved" in answer.text
                assert answer.headers["x-router-attempts"] == "2"
                assert answer.headers["x-router-backend"] == "b1"


async def test_chat_falls_back_when_a_stream_turns_into_an_error(tmp_path: Path) -> None:
    """A 200 whose stream holds an error before any output is a failed attempt, and leaves no trace."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"role": "assistant", "content": ""}))
        await reply.event({"error": {"message": "CUDA out of memory", "code": 500}})
        await reply.event("[DONE]")
        await reply.end_stream()

    async with scripted_upstream(script) as bad, scripted_upstream(say("saved")) as good:
        async with live_router(tmp_path, manifest_for(bad.url, good.url)) as router:
            answer = await router.chat(stream=True)
            assert "CUDA" not in answer.text
            assert answer.headers["x-router-attempts"] == "2"


async def test_chat_returns_the_callers_mistake_at_once(tmp_path: Path) -> None:
    """A 4xx about the request keeps its status, code and param, and nobody else is tried."""
    mistake = {"error": {"message": "bad tool", "type": "invalid_request_error", "param": "tools", "code": "bad_tool"}}
    async with scripted_upstream(fail(422, mistake)) as first, scripted_upstream() as second:
        async with live_router(tmp_path, manifest_for(first.url, second.url)) as router:
            answer = await router.chat()
            assert answer.status_code == 422
            assert_openai_error(answer, "bad_tool", "tools")
            assert second.requests == []


async def test_chat_hides_the_routers_own_bad_key(tmp_path: Path) -> None:
    """An upstream's 401 is about the router's key, so the caller sees a 502 and no key."""
    leak = {"error": {"message": "Incorrect API key provided: sk-secret-value-1234567890", "code": "invalid_api_key"}}
    async with scripted_upstream(fail(401, leak)) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            answer = await router.chat()
            assert answer.status_code == 502
            assert_openai_error(answer, "upstream_unauthorized")
            assert "sk-secret" not in answer.text


async def test_chat_ends_a_cut_stream_with_one_error_event(tmp_path: Path) -> None:
    """After the commit point a cut is visible: one error event, no finish reason, no [DONE]."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"role": "assistant", "content": "half"}))
        reply.cut()

    async with scripted_upstream(script) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        answer = await router.chat(stream=True)
        events = answer.text.split("\n\n")
        assert answer.status_code == 200
        assert json.loads(events[-2][6:])["error"]["code"] == "stream_interrupted"
        assert "[DONE]" not in answer.text
        assert '"finish_reason": "stop"' not in answer.text


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_cancels_the_upstream_when_the_client_leaves(tmp_path: Path, stream: bool) -> None:
    """A client that hangs up, before or within the answer, closes the exchange with the backend."""
    started = asyncio.Event()

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if stream:
            await reply.start_stream()
            await reply.event(chunk({"role": "assistant", "content": "a"}))
        started.set()
        await request.closed_early.wait()

    async with scripted_upstream(script) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        asking = asyncio.ensure_future(router.chat(stream=stream))
        await started.wait()
        asking.cancel()
        await asyncio.wait_for(upstream.requests[0].closed_early.wait(), 10)


async def test_chat_times_out_on_a_silent_backend_and_moves_on(tmp_path: Path) -> None:
    """A backend that never sends its first token is left for the next one."""

    async def silence(request: SeenRequest, _reply: ScriptedReply) -> None:
        await request.closed_early.wait()

    async with scripted_upstream(silence) as silent, scripted_upstream(say("saved")) as good:
        limits = "{first_token: 0.2, total: 0.4}"
        async with live_router(tmp_path, manifest_for(silent.url, good.url, timeouts=limits)) as router:
            for streaming in (True, False):
                answer = await router.chat(stream=streaming)
                assert "saved" in answer.text
                assert answer.headers["x-router-attempts"] == "2"
