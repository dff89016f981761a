"""HEAD and OPTIONS on every route, wrong methods, Azure's paths, and bodies however they come."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.router.api.test_chat import assert_openai_error
from tests.support.router import live_router, manifest_for
from tests.support.upstream import scripted_upstream

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/chat/completions", "OPTIONS, POST"),
        ("/v1/embeddings", "OPTIONS, POST"),
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/v1/models/a/b", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/admin/v1/keys", "GET, HEAD, OPTIONS, POST"),
        ("/agents/register", "OPTIONS, POST"),
    ],
)
async def test_every_route_says_what_it_allows(tmp_path: Path, path: str, allowed: str) -> None:
    """OPTIONS is answered without a body, and a wrong method with the error object; both name the methods."""
    async with live_router(tmp_path) as router:
        told = await router.client.options(path)
        assert (told.status_code, told.content, told.headers["allow"]) == (204, b"", allowed)
        wrong = await router.client.patch(path)
        assert wrong.status_code == 405
        assert_openai_error(wrong, "method_not_allowed")
        assert wrong.headers["allow"] == allowed


async def test_head_is_get_without_its_body(tmp_path: Path) -> None:
    """The same status and length, and nothing behind them."""
    async with live_router(tmp_path) as router:
        for path in ("/v1/models", "/healthz", "/openapi.json"):
            told, whole = await router.client.head(path), await router.client.get(path)
            assert (told.status_code, told.content) == (200, b"")
            assert told.headers["content-length"] == str(len(whole.content))
        assert (await router.client.head("/v1/models/nope")).status_code == 404
        refused = await router.client.head("/v1/chat/completions")
        assert (refused.status_code, refused.content) == (405, b"")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/json; charset=utf-8", "application/x-unknown"])
async def test_body_is_json_whatever_its_type_says(tmp_path: Path, kind: str | None) -> None:
    """Clients leave the content type out or get it wrong; backends get the right one."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        headers = {} if kind is None else {"content-type": kind}
        answer = await router.client.post("/v1/chat/completions?a=b", content=CHAT, headers=headers)
        assert answer.status_code == 200
        assert upstream.requests[-1].headers["content-type"] == "application/json"


async def test_body_may_be_compressed(tmp_path: Path) -> None:
    """The backend gets it plain; a bomb and a damaged one are refused."""
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), body_limit=100_000) as router:

            async def post(body: bytes, encoding: str) -> int:
                headers = {"content-encoding": encoding}
                answer = await router.client.post("/v1/chat/completions", content=body, headers=headers)
                return answer.status_code

            assert await post(gzip.compress(CHAT), "gzip") == 200
            assert await post(zlib.compress(gzip.compress(CHAT)), "gzip, deflate") == 200
            for request in upstream.requests:
                assert request.json["messages"] == json.loads(CHAT)["messages"]
                assert "content-encoding" not in request.headers
            assert await post(gzip.compress(b" " * 100_001), "gzip") == 413
            assert await post(CHAT, "gzip") == 400
            assert await post(CHAT, "compress") == 415
            assert len(upstream.requests) == 2


async def test_body_may_come_in_chunks(tmp_path: Path) -> None:
    """A body of unknown length is read to its end."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(CHAT), 9):
            yield CHAT[start : start + 9]

    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        assert (await router.client.post("/v1/chat/completions", content=pieces())).status_code == 200


async def test_azures_paths_name_the_model(tmp_path: Path) -> None:
    """The model stands in the path, perhaps in the body too; the key in `api-key`."""
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url, models="org/m")) as router:
            path = "/openai/deployments/org%2Fm/chat/completions?api-version=2024-10-21"
            without = {"messages": [{"role": "user", "content": "Hi"}]}
            for body in (without, {"model": "org/m", **without}):
                answer = await router.client.post(path, json=body)
                assert answer.status_code == 200
                assert upstream.requests[-1].json["model"] == "up-0"
            assert (await router.client.post(path, content=b"[")).status_code == 400
            assert (await router.client.post(path.replace("org", "nope"), json=without)).status_code == 404


async def test_errors_of_anthropics_routes_have_its_shape(tmp_path: Path) -> None:
    """No such route, a wrong method, an unknown model: told as the route's clients read it."""
    version = {"anthropic-version": "2023-06-01"}
    async with live_router(tmp_path) as router:
        answers = [
            (await router.client.post("/v1/messages/batches", json={}), 404),
            (await router.client.get("/v1/messages"), 405),
            (await router.client.delete("/v1/messages/count_tokens"), 405),
            (await router.client.get("/v1/models/nope", headers=version), 404),
            (await router.client.post("/v1/messages", headers={"origin": "https://a.example"}), 403),
        ]
        for answer, status in answers:
            assert answer.status_code == status
            told = answer.json()
            assert told["type"] == "error"
            assert told["error"]["type"]
        assert_openai_error(await router.client.get("/v1/messages_of_others"), "not_found")
