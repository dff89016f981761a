"""Headers and HTTP: what surrounds the bodies."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.sdk import CLIENT_KEY, HELLO, whole, world
from tests.support.upstream import completion, fail, say

CHAT = {"model": "m", "messages": HELLO}
BODY = json.dumps(CHAT).encode()
STAINLESS = {
    "x-stainless-lang": "python",
    "x-stainless-retry-count": "1",
    "x-stainless-timeout": "600",
    "openai-organization": "org-x",
    "openai-project": "proj_x",
    "openai-beta": "assistants=v2",
    "x-forwarded-for": "10.0.0.1",
    "idempotency-key": "stainless-python-retry-1",
}


async def test_request_id_is_always_there_and_unique(tmp_path: Path) -> None:
    """On answers, streams, errors and lists; it is the SDK's `_request_id`, and never the client's own."""
    async with world(tmp_path) as there:
        client = there.router.client
        ours = {"x-request-id": "mine"}
        answers = [
            await there.router.chat(headers=ours),
            await there.router.chat(headers=ours, stream=True),
            await there.router.chat(model="nobody"),
            await client.get("/v1/models"),
            await client.get("/nowhere"),
            await client.post("/v1/chat/completions", content=b"{"),
        ]
        ids = [answer.headers["x-request-id"] for answer in answers]
        assert len(set(ids)) == len(ids)
        assert "mine" not in ids
        assert (await there.ask())._request_id.startswith("req_")


async def test_rate_limit_headers_of_the_upstream_arrive(tmp_path: Path) -> None:
    """`x-ratelimit-*` of an answer, a stream and an error."""
    limits = {"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-tokens": "6m0s"}
    async with world(tmp_path, whole(completion("x"), headers=limits)) as there:
        reply = await there.openai.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        assert {name: reply.headers[name] for name in limits} == limits
        there.upstreams[0].script = fail(429, headers={**limits, "retry-after": "7"})
        answer = await there.router.chat()
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "7"
        assert {name: answer.headers.get(name) for name in limits} == limits


async def test_clients_key_and_cookies_stay_here(tmp_path: Path) -> None:
    """Neither is sent on; SDK and proxy headers harm nothing."""
    async with world(tmp_path) as there:
        reply = await there.openai.chat.completions.create(
            model="m", messages=HELLO, extra_headers={**STAINLESS, "cookie": "session=secret", "api-key": "k"}
        )
        assert reply.choices[0].message.content == "Hello."
        sent = there.seen[0].headers
        assert CLIENT_KEY not in str(sent)
        assert "secret" not in str(sent)
        assert {"cookie", "api-key"}.isdisjoint(sent)


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON", "text/plain", "", None]
)
async def test_content_type_may_be_written_in_any_way(tmp_path: Path, kind: str | None) -> None:
    """The body counts, not what it is called."""
    async with world(tmp_path) as there:
        headers = {} if kind is None else {"content-type": kind}
        answer = await there.router.client.post("/v1/chat/completions", content=BODY, headers=headers)
        assert answer.status_code == 200, answer.text


async def test_query_strings_are_harmless(tmp_path: Path) -> None:
    """`?api-version=…` and the like change nothing."""
    async with world(tmp_path) as there:
        answer = await there.router.client.post("/v1/chat/completions?api-version=2026-01-01&beta=true", json=CHAT)
        assert answer.status_code == 200
        assert (await there.router.client.get("/v1/models?limit=20&after=x")).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
async def test_compressed_request_is_read(tmp_path: Path, encoding: str) -> None:
    """What a client compresses reaches the upstream as JSON."""
    body = gzip.compress(BODY) if encoding == "gzip" else BODY
    async with world(tmp_path) as there:
        headers = {"content-encoding": encoding, "content-type": "application/json"}
        answer = await there.router.client.post("/v1/chat/completions", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert there.seen[0].json["messages"] == HELLO
        assert (
            "content-encoding" not in there.seen[0].headers or there.seen[0].headers["content-encoding"] == "identity"
        )


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
async def test_compressed_garbage_is_a_4xx(tmp_path: Path, encoding: str) -> None:
    """Never a 500; an encoding that nobody knows says so."""
    async with world(tmp_path) as there:
        answer = await there.router.client.post(
            "/v1/chat/completions", content=b"\x1f\x8bgarbage", headers={"content-encoding": encoding}
        )
        assert answer.status_code in (400, 415), answer.text
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_decompression_bomb_is_refused(tmp_path: Path) -> None:
    """A small body that would become a large one."""
    bomb = gzip.compress(b" " * (64 * 1024 * 1024))
    async with world(tmp_path, body_limit=1024 * 1024) as there:
        headers = {"content-encoding": "gzip"}
        answer = await there.router.client.post("/v1/chat/completions", content=bomb, headers=headers)
        assert answer.status_code == 413
        assert there.seen == []


async def test_chunked_body_is_read(tmp_path: Path) -> None:
    """A body of unknown length."""

    async def parts() -> object:
        for byte in BODY:
            yield bytes([byte])

    async with world(tmp_path) as there:
        answer = await there.router.client.post("/v1/chat/completions", content=parts())  # type: ignore[arg-type]
        assert answer.status_code == 200
        assert there.seen[0].json["messages"] == HELLO


async def test_connections_are_kept_on_both_sides(tmp_path: Path) -> None:
    """Ten requests one after the other use one connection to the router, and one to the upstream."""
    async with world(tmp_path) as there:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=there.router.url, limits=limits, trust_env=False) as client:
            ports = set()
            for count in range(10):
                answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": count % 2 == 0})
                assert answer.status_code == 200
                stream = answer.extensions["network_stream"]
                ports.add(stream.get_extra_info("client_addr"))
        assert len(ports) == 1
        assert there.upstreams[0].connections == 1


async def test_expect_100_continue_is_answered(tmp_path: Path) -> None:
    """A client that asks before it sends a body is told to go on."""
    async with world(tmp_path) as there:
        place = urlsplit(there.router.url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        lines = ("host: x", f"content-length: {len(BODY)}", "expect: 100-continue")
        writer.write("\r\n".join(("POST /v1/chat/completions HTTP/1.1", *lines, "", "")).encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(BODY)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_head_is_answered_without_a_body(tmp_path: Path) -> None:
    """HEAD of what GET answers is GET's head."""
    async with world(tmp_path) as there:
        for path in ("/v1/models", "/v1/models/m", "/healthz"):
            answer = await there.router.client.head(path)
            assert answer.status_code == 200, path
            assert answer.content == b""


async def test_browsers_may_call(tmp_path: Path) -> None:
    """The preflight of the SDK's browser build allows its headers; the answer may be read, the request id too."""
    origin = {"origin": "https://app.example"}
    asks = "authorization,content-type,x-stainless-arch,x-stainless-retry-count,x-api-key,anthropic-version"
    async with world(tmp_path, cors_origins="https://app.example") as there:
        client = there.router.client
        wanted = {**origin, "access-control-request-method": "POST", "access-control-request-headers": asks}
        preflight = await client.options("/v1/chat/completions", headers=wanted)
        assert preflight.status_code in (200, 204)
        allowed = preflight.headers["access-control-allow-headers"].lower()
        assert allowed == "*" or all(name in allowed for name in asks.split(","))
        assert "POST" in preflight.headers["access-control-allow-methods"]
        for answer in (
            await client.post("/v1/chat/completions", json=CHAT, headers=origin),
            await client.post("/v1/chat/completions", json={**CHAT, "stream": True}, headers=origin),
            await client.post("/v1/chat/completions", content=b"{", headers=origin),
            await client.get("/v1/models", headers=origin),
        ):
            assert answer.headers["access-control-allow-origin"] in ("*", origin["origin"])
            exposed = answer.headers["access-control-expose-headers"].lower()
            assert exposed == "*" or "x-request-id" in exposed


async def test_plain_options_is_not_an_error(tmp_path: Path) -> None:
    """OPTIONS without an origin says which methods there are."""
    async with world(tmp_path, say("x")) as there:
        answer = await there.router.client.options("/v1/chat/completions")
        assert answer.status_code in (200, 204)
        assert "POST" in answer.headers["allow"]
