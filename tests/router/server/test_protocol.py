"""The direct front: what goes the short way, what is left to ASGI, and that a client cannot tell."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from router.server.exchange import DataPlaneExchange
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, fail, say, scripted_upstream
from tests.support.waiting import eventually

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()


def post(body: bytes = BODY, *lines: str, path: str = "/v1/chat/completions", version: str = "1.1") -> bytes:
    """Return a request as it is sent."""
    head = [f"POST {path} HTTP/{version}", "host: x", *lines]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        head.append(f"content-length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


class Wire:
    """A client that writes and reads bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer by its framing."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        if head[0].split()[1] == "100":
            body = b""
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        return int(head[0].split()[1]), headers, body


@asynccontextmanager
async def wired(router: LiveRouter) -> AsyncIterator[Wire]:
    """A connection to the router."""
    place = urlsplit(router.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def running(tmp_path: Path, script: Any = None, **settings: Any) -> AsyncIterator[tuple[LiveRouter, Any]]:
    """A router in front of a scripted upstream."""
    async with scripted_upstream(*([script] if script else [])) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), **{"http": "direct", **settings}) as router:
            yield router, upstream


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of requests that went the short way, as the length of a list."""
    seen: list[int] = []
    start = DataPlaneExchange.start

    def counting(self: DataPlaneExchange, loop: asyncio.AbstractEventLoop) -> None:
        seen.append(1)
        start(self, loop)

    monkeypatch.setattr(DataPlaneExchange, "start", counting)
    return seen


async def test_connection_serves_one_request_after_another(tmp_path: Path, direct: list[int]) -> None:
    """Data-plane requests and others take turns on one connection."""
    async with running(tmp_path) as (router, _), wired(router) as wire:
        for _ in range(2):
            await wire.send(post())
            status, headers, body = await wire.answer()
            assert (status, headers["content-type"]) == (200, "application/json")
            assert json.loads(body)["object"] == "chat.completion"
            await wire.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await wire.answer())[0] == 200
    assert len(direct) == 2


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), "transfer-encoding: chunked"), 200),
        (post(BODY, "expect: 100-continue"), 200),
        (post(gzip.compress(BODY), "content-encoding: gzip"), 200),
        (post(BODY, "content-encoding: gzip"), 400),
        (post(BODY, "content-encoding: x"), 415),
        (post(BODY, "origin: http://localhost:3000"), 200),
        (post(BODY, "origin: http://a.example"), 403),
        (post(BODY, "upgrade: h2c", "connection: upgrade"), 400),
        (post(path="/v1/chat/completions?x=1"), 200),
        (post(path="/v1/nothing"), 404),
        (b"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (post(b"x" * 5000), 413),
    ],
    ids=[
        "chunked",
        "expect",
        "gzip",
        "damaged",
        "packed",
        "page",
        "foreign",
        "upgrade",
        "query",
        "unknown",
        "get",
        "too-large",
    ],
)
async def test_unusual_requests_are_left_to_asgi(
    tmp_path: Path, direct: list[int], request_bytes: bytes, status: int
) -> None:
    """Whatever is not plain is answered all the same, by the ordinary route."""
    async with running(tmp_path, body_limit=4096) as (router, _), wired(router) as wire:
        await wire.send(request_bytes)
        answer = await wire.answer()
        if answer[0] == 100:
            answer = await wire.answer()
        assert answer[0] == status
        if status != 200:
            assert set(json.loads(answer[2])["error"]) == {"message", "type", "param", "code"}
    assert direct == []


async def test_what_is_no_http_is_refused_in_json(tmp_path: Path) -> None:
    """Garbage gets the error object too, and the connection is closed."""
    async with running(tmp_path) as (router, _), wired(router) as wire:
        await wire.send(b"GARBAGE\r\n\r\n")
        status, headers, body = await wire.answer()
        assert (status, headers["content-type"]) == (400, "application/json")
        assert json.loads(body)["error"]["code"] == "invalid_request"
        assert headers["x-request-id"].startswith("req_")
        assert await wire.reader.read() == b""


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """Requests that come before the answer to the first wait for their turn."""
    async with running(tmp_path) as (router, upstream), wired(router) as wire:
        asked = [json.dumps({**json.loads(BODY), "user": str(number)}).encode() for number in range(3)]
        await wire.send(b"".join(map(post, asked)))
        assert [(await wire.answer())[0] for _ in asked] == [200, 200, 200]
        assert [request.json["user"] for request in upstream.requests] == ["0", "1", "2"]


async def test_request_in_pieces_is_whole(tmp_path: Path, direct: list[int]) -> None:
    """However the bytes of a request are cut on the way, they are one request."""
    async with running(tmp_path) as (router, upstream), wired(router) as wire:
        message = post()
        for start in range(0, len(message), 7):
            await wire.send(message[start : start + 7])
            await asyncio.sleep(0)
        assert (await wire.answer())[0] == 200
        assert upstream.requests[0].json["messages"] == json.loads(BODY)["messages"]
    assert len(direct) == 1


@pytest.mark.parametrize("first", ["model", "messages"])
async def test_long_body_arrives_whole(tmp_path: Path, direct: list[int], first: str) -> None:
    """A body of many reads reaches the backend byte for byte, wherever its model stands."""
    fields = {"model": "m", "messages": [{"role": "user", "content": "\u00e9" * 1000} for _ in range(300)], "user": "u"}
    body = json.dumps({first: fields[first], **fields}, ensure_ascii=False).encode()
    async with running(tmp_path) as (router, upstream), wired(router) as wire:
        await wire.send(post(body))
        assert (await wire.answer())[0] == 200
        assert upstream.requests[0].body == body.replace(b'"model": "m"', b'"model": "up-0"')
    assert len(direct) == 1


async def test_connection_that_is_to_close_is_closed(tmp_path: Path, direct: list[int]) -> None:
    """`Connection: close` is said back and done, once the whole answer is out."""
    async with running(tmp_path) as (router, _), wired(router) as wire:
        await wire.send(post(BODY, "connection: close"))
        status, headers, _ = await wire.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await wire.reader.read() == b""
    assert len(direct) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_ends_the_upstream_request(tmp_path: Path, stream: bool) -> None:
    """Nobody goes on working for a client that is gone, and its request is on the books once."""

    async def hang(_request: SeenRequest, reply: ScriptedReply) -> None:
        if stream:
            await reply.start_stream()
            await reply.event(chunk({"content": "x"}))
        await asyncio.Event().wait()

    async with running(tmp_path, hang) as (router, upstream):
        async with wired(router) as wire:
            await wire.send(post(json.dumps({**json.loads(BODY), "stream": stream}).encode()))
            if stream:
                await wire.reader.readuntil(b"\r\n\r\n")
            await eventually(lambda: bool(upstream.requests))
        await asyncio.wait_for(upstream.requests[0].closed_early.wait(), 10)
        metrics = await eventually_counts(router, 'status="499"' if not stream else "router_requests_total{")
        assert metrics


async def eventually_counts(router: LiveRouter, text: str) -> str:
    """Return the metrics line that holds a text, once there is one."""
    for _ in range(200):
        for line in (await router.client.get("/metrics")).text.splitlines():
            if line.startswith("router_requests_total") and text in line:
                return line
        await asyncio.sleep(0.01)
    raise AssertionError(f"no metric with {text}")


async def test_slow_reader_holds_the_backend_back(tmp_path: Path) -> None:
    """A client that does not read makes nobody pile its stream up in memory."""
    written = 0

    async def flood(_request: SeenRequest, reply: ScriptedReply) -> None:
        nonlocal written
        await reply.start_stream()
        for _ in range(2000):
            await reply.event(chunk({"content": "x" * 100_000}))
            written += 100_000
        await reply.event("[DONE]")
        await reply.end_stream()

    async with running(tmp_path, flood) as (router, _), wired(router) as wire:
        await wire.send(post(json.dumps({**json.loads(BODY), "stream": True}).encode()))
        last = -1
        while written != last or not written:  # until the kernel's buffers are full and nothing moves
            last = written
            await asyncio.sleep(0.1)
        assert written < 100_000_000


@pytest.mark.parametrize("status", [420, 499])
async def test_status_that_nobody_registered_is_passed_on(tmp_path: Path, status: int) -> None:
    """A backend's 4xx is the client's, whatever its number."""
    async with running(tmp_path, fail(status)) as (router, _), wired(router) as wire:
        await wire.send(post())
        assert (await wire.answer())[0] == status


async def test_crash_is_an_error_in_the_callers_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is a 500 with the request's id and no detail; the connection goes on."""
    async with running(tmp_path) as (router, _), wired(router) as wire:

        async def crash(*_: Any) -> None:
            raise ZeroDivisionError("secret detail")

        monkeypatch.setattr(router.services.gateway, "handle", crash)
        await wire.send(post())
        status, headers, body = await wire.answer()
        error = json.loads(body)["error"]
        assert (status, error["code"]) == (500, "internal_error")
        assert headers["x-request-id"] in error["message"]
        assert "secret" not in body.decode()
        monkeypatch.undo()
        await wire.send(post())
        assert (await wire.answer())[0] == 200


async def test_both_fronts_answer_alike(tmp_path: Path) -> None:
    """Status, headers and body are the same whichever way a request came in."""

    def shape(answer: Any) -> tuple[Any, ...]:
        changing = ("x-request-id", "x-router-decision-id", "x-router-overhead-ms", "date")
        return answer.status_code, {k: v for k, v in answer.headers.items() if k not in changing}, answer.text

    asked: list[dict[str, Any]] = [{}, {"stream": True}, {"model": "nobody"}, {"temperature": "hot"}, {"messages": []}]
    answers = []
    for number, http in enumerate(("direct", "asgi")):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with running(folder, say("One two."), http=http) as (router, _):
            answers.append([shape(await router.chat(**fields)) for fields in asked])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("http", ["direct", "asgi"])
async def test_answers_of_a_router_that_leaves_end_their_connection(tmp_path: Path, http: str) -> None:
    """Clients that keep connections are sent to another router by their next answer, whatever they asked for."""
    asked = [
        post(),
        post(json.dumps({**json.loads(BODY), "stream": True}).encode()),
        post(path="/v1/nothing"),
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    ]
    async with running(tmp_path, http=http) as (router, _):
        for request in asked:
            async with wired(router) as wire:
                await wire.send(request)
                assert "connection" not in (await wire.answer())[1]
                router.services.presence.leaving = True
                await wire.send(request)
                assert (await wire.answer())[1]["connection"] == "close"
                assert await wire.reader.read() == b""
                router.services.presence.leaving = False
