"""Errors: the right status and the caller's own format, whatever went wrong and wherever."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.router import live_router, manifest_for
from tests.support.sdk import CLIENT_KEY, HELLO, world
from tests.support.upstream import ScriptedReply, SeenRequest, completion, fail

CHAT = {"model": "m", "messages": HELLO}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "m", "prompt": "Hi"},
    "/v1/embeddings": {"model": "m", "input": "Hi"},
    "/v1/responses": {"model": "m", "input": "Hi"},
}
SECRET = "sk-upstream-canary-0123456789abcdefghij"


def error_of(body: Any) -> dict[str, Any]:
    """Return the error of an answer that has OpenAI's envelope and nothing else."""
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


@pytest.mark.parametrize("route", ROUTES)
async def test_wrong_key_is_a_401_on_every_route(tmp_path: Path, route: str) -> None:
    """No key, a wrong one, and one of an odd scheme: `invalid_api_key`, and nobody is asked."""
    async with world(tmp_path, auth="required") as there:
        client = there.router.client
        for headers in ({}, {"authorization": f"Bearer {CLIENT_KEY}"}, {"authorization": "Basic eDp5"}):
            answer = await client.post(route, json=ROUTES[route], headers=headers)
            assert answer.status_code == 401
            assert error_of(answer.json())["code"] == "invalid_api_key"
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/v1/models/m")).status_code == 401
        with pytest.raises(openai.AuthenticationError) as caught:
            await there.ask()
        assert caught.value.code == "invalid_api_key"
        assert there.seen == []


@pytest.mark.parametrize("route", ROUTES)
async def test_unknown_model_is_a_404_on_every_route(tmp_path: Path, route: str) -> None:
    """`model_not_found`, with the param that holds it."""
    async with world(tmp_path) as there:
        answer = await there.router.client.post(route, json={**ROUTES[route], "model": "org/nobody:has"})
        assert answer.status_code == 404
        error = error_of(answer.json())
        assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")
        with pytest.raises(openai.NotFoundError) as caught:
            await there.openai.models.retrieve("nobody/has")
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b'{"model": "m",}', b"\xff\xfe", b"{}"])
async def test_bad_json_is_a_400_on_every_route(tmp_path: Path, route: str, body: bytes) -> None:
    """Empty, cut, of the wrong kind, with a trailing comma, not UTF-8, without the needed fields."""
    async with world(tmp_path) as there:
        answer = await there.router.client.post(route, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text
        assert error_of(answer.json())["type"] == "invalid_request_error"
        assert answer.headers["x-request-id"]
        assert there.seen == []


async def test_unknown_routes_and_methods_are_json(tmp_path: Path) -> None:
    """404 and 405 in OpenAI's envelope, with the allowed methods."""
    async with world(tmp_path) as there:
        client = there.router.client
        for path in ("/v1/nowhere", "/nowhere", "/v1/chat"):
            answer = await client.post(path, json={})
            assert answer.status_code == 404
            error_of(answer.json())
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            answer = await client.request(method, "/v1/chat/completions")
            assert answer.status_code == 405, method
            assert "POST" in answer.headers["allow"]
            error_of(answer.json())


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422, 451])
@pytest.mark.parametrize("stream", [False, True])
async def test_upstreams_4xx_is_kept(tmp_path: Path, status: int, stream: bool) -> None:
    """Status, code, param and type are the upstream's."""
    theirs = {"message": "no good", "type": "their_type", "param": "messages[0].x", "code": "their_code"}
    async with world(tmp_path, fail(status, {"error": theirs})) as there:
        with pytest.raises(openai.APIStatusError) as caught:
            await there.ask(stream=stream)
        error = caught.value
        assert (error.status_code, error.code, error.param, error.type) == (
            status,
            "their_code",
            "messages[0].x",
            "their_type",
        )
        assert "no good" in error.message
        assert error.request_id
        assert len(there.seen) == 1


async def test_rate_limit_keeps_its_retry_after(tmp_path: Path) -> None:
    """429 with the upstream's `Retry-After`; the SDK raises RateLimitError."""
    body = {"error": {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
    async with world(tmp_path, fail(429, body, {"retry-after": "30"})) as there:
        with pytest.raises(openai.RateLimitError) as caught:
            await there.ask()
        assert caught.value.response.headers["retry-after"] == "30"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
async def test_upstreams_5xx_is_json(tmp_path: Path, status: int) -> None:
    """Also where the upstream's body is a proxy's HTML page."""

    async def html(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.body(b"<html><h1>Bad Gateway</h1></html>", status, {"content-type": "text/html"})

    async with world(tmp_path, html) as there:
        with pytest.raises(openai.InternalServerError) as caught:
            await there.ask()
        assert "<html>" not in error_of(caught.value.response.json())["message"]


GARBAGE: dict[str, tuple[bytes, str]] = {
    "html": (b"<html>login</html>", "text/html"),
    "empty": (b"", "application/json"),
    "cut json": (b'{"id": "x", "choices": [', "application/json"),
    "not utf-8": (b'{"id": "\xff"}', "application/json"),
    "an array": (b"[]", "application/json"),
    "null": (b"null", "application/json"),
    "an error in a 200": (b'{"error": {"message": "out of memory", "type": "server_error"}}', "application/json"),
    "a detail": (b'{"detail": "Internal Server Error"}', "application/json"),
}


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_200_that_is_no_answer_is_a_5xx(tmp_path: Path, name: str, stream: bool) -> None:
    """Never a 200 with garbage, never a stream that ends cleanly with nothing in it."""
    data, kind = GARBAGE[name]

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.body(data, 200, {"content-type": kind})

    async with world(tmp_path, script) as there:
        answer = await there.router.chat(stream=stream)
        assert 500 <= answer.status_code < 600, answer.text
        error_of(answer.json())


async def test_refused_and_closed_connections_are_a_5xx(tmp_path: Path) -> None:
    """Nobody listens, or hangs up without a word."""

    async def closing(_request: SeenRequest, reply: ScriptedReply) -> None:
        reply.cut()

    async with live_router(tmp_path, manifest_for("http://127.0.0.1:1/v1")) as router:
        answer = await router.chat()
        assert answer.status_code == 502
        error_of(answer.json())
        assert "127.0.0.1" not in answer.text
    async with world(tmp_path / "b", closing) as there:
        with pytest.raises(openai.InternalServerError):
            await there.ask()


@pytest.mark.parametrize("stream", [False, True])
async def test_timeout_is_a_504(tmp_path: Path, stream: bool) -> None:
    """An upstream that says nothing."""

    async def silent(request: SeenRequest, _reply: ScriptedReply) -> None:
        await request.closed_early.wait()

    manifest = manifest_for("URL0", timeouts="{first_token: 0.2, total: 0.3}")
    async with world(tmp_path, silent, manifest=manifest) as there:
        answer = await there.router.chat(stream=stream)
        assert answer.status_code == 504
        assert error_of(answer.json())["code"] in ("upstream_timeout", "all_candidates_failed")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
async def test_no_answer_holds_an_upstreams_key_or_address(
    tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the upstream itself repeats them."""
    monkeypatch.setenv("CANARY_KEY", SECRET)
    async with world(tmp_path, manifest=manifest_for("URL0", api_key_env="CANARY_KEY")) as there:
        told = f"Incorrect API key provided: {SECRET}. See {there.upstreams[0].url}"
        there.upstreams[0].script = fail(status, {"error": {"message": told, "type": "x", "param": None, "code": "y"}})
        for stream in (False, True):
            answer = await there.router.chat(stream=stream)
            assert answer.status_code >= 400
            assert SECRET not in answer.text + str(answer.headers)
            assert there.seen[-1].headers["authorization"] == f"Bearer {SECRET}"
            assert CLIENT_KEY not in str(there.seen[-1].headers)


@pytest.mark.parametrize(
    ("detail", "words"),
    [
        ("Model is loading", "Model is loading"),
        ([{"loc": ["body", "messages"], "msg": "Field required", "type": "missing"}], "Field required"),
        ({"message": "nested"}, "nested"),
    ],
)
async def test_fastapis_detail_becomes_an_error_object(tmp_path: Path, detail: Any, words: str) -> None:
    """What a FastAPI upstream says under `detail` is the message of a proper error."""
    async with world(tmp_path, fail(422, {"detail": detail})) as there:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await there.ask()
        assert words in error_of(caught.value.response.json())["message"]


async def test_vllms_bare_error_is_kept(tmp_path: Path) -> None:
    """VLLM's error without an envelope, with a number for a code."""
    bare = {"object": "error", "message": "too long", "type": "BadRequestError", "param": "messages", "code": 400}
    async with world(tmp_path, fail(400, bare)) as there:
        with pytest.raises(openai.BadRequestError) as caught:
            await there.ask()
        assert (caught.value.param, caught.value.type) == ("messages", "BadRequestError")
        assert "too long" in caught.value.message


async def test_sdks_own_retries_reach_the_router(tmp_path: Path) -> None:
    """The SDK tries again after a 429 and obeys `retry-after-ms`, which arrives."""
    failures = 1

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            headers = {"retry-after-ms": "10", "retry-after": "0"}
            await reply.json({"error": {"message": "busy", "type": "x", "param": None, "code": "busy"}}, 429, headers)
        else:
            await reply.json(completion("served"))

    async with world(tmp_path, script, retries=3, attempts=1) as there:
        answer = await asyncio.wait_for(there.ask(), 30)
        assert answer.choices[0].message.content == "served"
        assert len(there.seen) == 2
