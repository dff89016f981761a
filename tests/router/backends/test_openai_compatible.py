"""The OpenAI dialect on a live router: what goes up, and what odd servers send back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.router.api.test_chat import assert_openai_error
from tests.support.router import live_router, manifest_for
from tests.support.upstream import Script, ScriptedReply, SeenRequest, chunk, completion, scripted_upstream

JSON = {"content-type": "application/json"}


def with_body(data: bytes, headers: dict[str, str] | None = None) -> Script:
    """Return a script that answers 200 with these bytes."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.body(data, headers=headers or JSON)

    return script


async def test_upstream_gets_its_own_key_and_never_the_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend's key comes from the variable it names; the client's key and cookies stay here."""
    monkeypatch.setenv("SCRIPTED_KEY", "upstream-secret")
    async with scripted_upstream() as upstream:
        manifest = manifest_for(upstream.url, api_key_env="SCRIPTED_KEY", forward_headers="[openai-beta]")
        async with live_router(tmp_path, manifest) as router:
            sent = {
                "authorization": "Bearer client-secret",
                "cookie": "a=b",
                "openai-beta": "x",
                "x-other": "y",
                "traceparent": "00-1-2-01",
            }
            assert (await router.chat(headers=sent)).status_code == 200
            seen = upstream.requests[0].headers
    assert seen["authorization"] == "Bearer upstream-secret"
    assert (seen["openai-beta"], seen["traceparent"]) == ("x", "00-1-2-01")
    assert not {"cookie", "x-other"} & set(seen)
    assert "client-secret" not in str(seen)


async def test_upstream_gets_its_key_where_it_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's way: a header of its own, the model in the path, a version in the query; no client's key goes there."""
    monkeypatch.setenv("SCRIPTED_KEY", "upstream-secret")
    async with scripted_upstream() as upstream:
        address = upstream.url + "/openai/deployments/{model}?api-version=2024-10-21"
        wanted = {"api_key_env": "SCRIPTED_KEY", "key_header": "X-Their-Key", "forward_headers": "[x-their-key]"}
        async with live_router(tmp_path, manifest_for(address, **wanted)) as router:
            assert (await router.chat(headers={"x-their-key": "client-secret"})).status_code == 200
            seen = upstream.requests[0]
    assert seen.path == "/v1/openai/deployments/up-0/chat/completions?api-version=2024-10-21"
    assert seen.headers["x-their-key"] == "upstream-secret"
    assert "authorization" not in seen.headers


async def test_upstream_without_its_key_is_told_loudly(tmp_path: Path) -> None:
    """A backend whose key is not set is a failure of the router's, not of the caller's."""
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url, api_key_env="NOT_SET_ANYWHERE")) as router:
            refused = await router.chat()
            assert refused.status_code == 502
            assert_openai_error(refused, "upstream_unauthorized")
            assert upstream.requests == []


@pytest.mark.parametrize(
    "script",
    [
        with_body(b"<html>Bad gateway</html>", {"content-type": "text/html"}),
        with_body(b""),
        with_body(b'{"choices": []}'),
        with_body(b'{"id": "x", "choices": [{"index": 0, "mess'),
        with_body(b'{"error": {"message": "inside a 200"}}'),
        with_body(b"[]"),
    ],
    ids=["html", "empty", "no-choices", "truncated", "error-in-200", "list"],
)
async def test_upstream_answer_that_is_none_becomes_a_502(tmp_path: Path, script: Script) -> None:
    """Whatever is no completion becomes a clear error in OpenAI's shape, streamed or not."""
    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            for stream in (False, True):
                refused = await router.chat(stream=stream)
                assert refused.status_code == 502
                error = assert_openai_error(refused, "upstream_unavailable")
                assert "html" not in error["message"]


async def test_upstream_that_cannot_be_reached_is_told_soon(tmp_path: Path) -> None:
    """A refused connection is a 502, and names neither address nor key."""
    async with live_router(tmp_path, manifest_for("http://127.0.0.1:1/v1")) as router:
        refused = await router.chat()
        assert refused.status_code == 502
        assert "127.0.0.1" not in assert_openai_error(refused, "upstream_unavailable")["message"]


async def test_upstream_compression_is_undone(tmp_path: Path) -> None:
    """A server that compresses though nobody asked is still read."""
    packed = gzip.compress(json.dumps(completion("plain")).encode())
    async with scripted_upstream(with_body(packed, {**JSON, "content-encoding": "gzip"})) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            assert (await router.chat()).json()["choices"][0]["message"]["content"] == "plain"
            assert upstream.requests[0].headers["accept-encoding"] == "identity"


async def test_stream_without_done_is_closed_properly(tmp_path: Path) -> None:
    """A server that finishes its answer and forgets `[DONE]` has still answered."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"content": "all"}))
        await reply.event(chunk({}, "stop"))
        await reply.end_stream()

    async with scripted_upstream(script) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        answer = await router.chat(stream=True)
        assert answer.text.endswith("data: [DONE]\n\n")
        assert "error" not in answer.text


async def test_stream_passes_comments_and_unknown_fields_on(tmp_path: Path) -> None:
    """The JSON of a stream goes through as it came; odd line ends and spacings become ordinary ones."""
    raw = b': ping\r\n\r\ndata:{"id":"x","choices":[{"index":0,"delta":{"content":"a"}}],"odd": 1}\r\n\r\n'
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        for index in range(0, len(raw + end), 7):
            await reply.send((raw + end)[index : index + 7])
        await reply.end_stream()

    async with scripted_upstream(script) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        told = raw.replace(b"\r\n", b"\n").replace(b"data:{", b"data: {") + end
        assert (await router.chat(stream=True)).content == told


async def test_carried_request_names_its_limit_as_most_servers_know_it(tmp_path: Path) -> None:
    """What the router puts into words itself is put into those that nobody refuses."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        asked = {"model": "m", "input": "Hi", "max_output_tokens": 5}
        assert (await router.client.post("/v1/responses", json=asked)).status_code == 200
        sent = upstream.requests[0].json
    assert sent["max_tokens"] == 5
    assert "max_completion_tokens" not in sent


async def test_messages_pass_to_a_backend_that_declares_them(tmp_path: Path) -> None:
    """Anthropic's requests go as they are to an OpenAI backend that has the route, and over chat to any other."""
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "up-0",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 1},
        "unknown": 1,
    }

    async def backend(request: SeenRequest, reply: ScriptedReply) -> None:
        counting = request.path.endswith("/count_tokens")
        await reply.json({"input_tokens": 3} if counting else message)

    async with scripted_upstream(backend) as upstream:
        manifest = manifest_for(upstream.url).replace(
            "aliases:", "capabilities: [chat, messages, count_tokens]\n    aliases:"
        )
        async with live_router(tmp_path, manifest) as router:
            asked = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}], "x": {"y": 1}}
            headers = {"anthropic-version": "2026-10-21", "anthropic-beta": "a,b", "x-api-key": "client-secret"}
            answer = await router.client.post("/v1/messages", json=asked, headers=headers)
            assert answer.json() == message
            seen = upstream.requests[-1]
            assert (seen.path, seen.json) == ("/v1/messages", asked | {"model": "up-0"})
            assert (seen.headers["anthropic-version"], seen.headers["anthropic-beta"]) == ("2026-10-21", "a,b")
            assert "client-secret" not in str(seen.headers)
            counted = await router.client.post("/v1/messages/count_tokens", json=asked, headers=headers)
            assert counted.json() == {"input_tokens": 3}
            assert upstream.requests[-1].path == "/v1/messages/count_tokens"


async def test_address_with_a_query_keeps_it_behind_the_path(tmp_path: Path) -> None:
    """Azure's classic addresses name the model in the path and the version in the query."""
    async with scripted_upstream() as upstream:
        base = upstream.url.removesuffix("/v1") + "/openai/deployments/{model}?api-version=2024-10-21"
        async with live_router(tmp_path, manifest_for(base)) as router:
            assert (await router.chat()).status_code == 200
        assert upstream.requests[0].path == "/openai/deployments/up-0/chat/completions?api-version=2024-10-21"


async def test_client_learns_the_limits_and_not_the_account(tmp_path: Path) -> None:
    """Of a backend's headers those go on that say something of the request."""
    told = {"x-ratelimit-remaining-requests": "7", "openai-processing-ms": "3"}
    own = {"openai-organization": "org-ours", "openai-project": "proj-ours", "set-cookie": "a=b"}

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json(completion("Hi"), headers=told | own)

    async with scripted_upstream(script) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        headers = dict((await router.chat()).headers)
    assert told.items() <= headers.items()
    assert not own.keys() & headers.keys()
