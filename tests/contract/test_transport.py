"""One contract for every `Transport`: framing, reuse, limits, and what each fault becomes."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.interfaces import Transport
from router.transport.general import HttpxTransport
from router.transport.lean import LeanTransport
from shared.errors import UpstreamTimeout, UpstreamUnavailable
from tests.support.sending import send, soon, whole
from tests.support.waiting import eventually
from tests.support.wire_server import Handler, WireServer, answers, wire_server

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nx-trailer: 1\r\n\r\n"
)
Make = Callable[..., Transport]


@pytest.fixture(params=[LeanTransport, HttpxTransport], ids=["lean", "httpx"])
def make(request: pytest.FixtureRequest) -> Make:
    """The transport under test."""
    kind: Make = request.param
    return kind


@pytest.fixture
async def transport(make: Make) -> AsyncIterator[Transport]:
    """A transport with its defaults."""
    made = make()
    yield made
    await made.close()


async def ask(transport: Transport, url: str, body: bytes = b"{}") -> tuple[int, bytes]:
    """Send a request and return status and body."""
    exchange = await send(transport, url, body, {"x-a": "1"})
    try:
        return exchange.status, await whole(exchange)
    finally:
        await exchange.close()


async def test_request_is_sent_as_given(transport: Transport) -> None:
    """Path, headers and body arrive; Host and Content-Length are set."""
    async with wire_server(answers(OK)) as server:
        assert await ask(transport, server.url + "?q=1", b'{"a":1}') == (200, b"hello")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /v1/x?q=1 http/1.1"
    assert b"x-a: 1" in lines
    assert b"content-length: 7" in lines
    assert any(line.startswith(b"host: 127.0.0.1:") for line in lines)
    assert body == b'{"a":1}'


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"hello"),
        (CHUNKED, b"hello world"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"hello"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(gzip.compress(b"hello"))
            + gzip.compress(b"hello"),
            b"hello",
        ),
    ],
    ids=["length", "chunked", "interim", "empty", "gzip"],
)
async def test_answer_is_read_by_its_framing_and_the_connection_kept(
    transport: Transport, answer: bytes, body: bytes
) -> None:
    """Each framing gives its body, and the next request goes over the same connection."""
    async with wire_server(answers(answer, OK)) as server:
        assert await ask(transport, server.url) == (200, body)
        assert await ask(transport, server.url) == (200, b"hello")
        assert server.connections == 1


async def test_answer_until_close_is_whole(transport: Transport) -> None:
    """An answer of undeclared length ends with its connection, which is not used again."""
    until_close = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhello"
    async with wire_server(answers(until_close, until_close, close=True)) as server:
        assert await ask(transport, server.url) == (200, b"hello")
        assert await ask(transport, server.url) == (200, b"hello")
        assert server.connections == 2


async def test_connection_that_says_close_is_not_used_again(transport: Transport) -> None:
    """`Connection: close` is obeyed."""
    closing = OK.replace(b"content-type", b"connection: close\r\ncontent-type")
    async with wire_server(answers(closing, OK)) as server:
        await ask(transport, server.url)
        await ask(transport, server.url)
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-len",
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\nhello",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000,
    ],
    ids=["nothing", "half-head", "short", "cut-chunk", "bad-chunk", "ssh", "tls", "not-gzip", "endless-head"],
)
async def test_answer_that_is_none_is_told_and_its_connection_dropped(transport: Transport, answer: bytes) -> None:
    """Whatever is no HTTP answer, or not a whole one, is an error; the next request starts afresh."""
    async with wire_server(answers(answer, OK, close=True)) as server:
        with pytest.raises(UpstreamUnavailable):
            await ask(transport, server.url)
        assert await ask(transport, server.url) == (200, b"hello")
        assert server.connections >= 2


async def test_kept_connection_that_was_closed_meanwhile_costs_nothing(transport: Transport) -> None:
    """A server that closes an idle connection is simply asked over a new one."""

    def bind(server: WireServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.read_request(reader)
            writer.write(OK)
            await writer.drain()

        return handle

    async with wire_server(bind) as server:
        for _ in range(5):
            assert await ask(transport, server.url) == (200, b"hello")
            await asyncio.sleep(0)
        assert len(server.requests) == 5


async def test_leaving_closes_the_connection_at_once(transport: Transport) -> None:
    """An exchange that is closed before its end tells the backend so."""
    gone = asyncio.Event()

    def bind(server: WireServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await writer.drain()
            await reader.read()
            gone.set()

        return handle

    async with wire_server(bind) as server:
        exchange = await send(transport, server.url)
        assert await exchange.read(soon()) == b"hello"
        await exchange.close()
        await asyncio.wait_for(gone.wait(), 10)


async def test_cancelling_closes_the_connection_at_once(transport: Transport) -> None:
    """A request that is cancelled while it waits for its answer leaves nothing behind."""
    asked, gone = asyncio.Event(), asyncio.Event()

    def bind(server: WireServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await server.read_request(reader)
            asked.set()
            await reader.read()
            gone.set()

        return handle

    async with wire_server(bind) as server:
        waiting = asyncio.ensure_future(send(transport, server.url))
        await asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(gone.wait(), 10)


async def test_backend_that_refuses_is_told(transport: Transport) -> None:
    """A refused connection names neither address nor port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UpstreamUnavailable) as caught:
        await ask(transport, f"http://127.0.0.1:{port}/")
    assert str(port) not in caught.value.message


async def test_pool_is_bounded(make: Make) -> None:
    """With every connection in use a request waits, and no longer than it may."""

    def bind(server: WireServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await server.read_request(reader)
            await reader.read()

        return handle

    transport = make(max_connections=1)
    async with wire_server(bind) as server:
        holding = asyncio.ensure_future(send(transport, server.url))
        await eventually(lambda: bool(server.requests))
        with pytest.raises(UpstreamTimeout):
            await send(transport, server.url, connect=0.05)
        holding.cancel()
        await asyncio.wait((holding,))
    await transport.close()


async def test_header_with_a_line_break_is_never_sent(transport: Transport) -> None:
    """A value that would forge a header is refused."""
    async with wire_server(answers(OK)) as server:
        with pytest.raises(UpstreamUnavailable):
            await send(transport, server.url, headers={"x-a": "1\r\nx-evil: 2"})
        assert server.requests == []


async def test_slow_reader_holds_the_backend_back(transport: Transport) -> None:
    """A body that nobody reads does not pile up in memory: the backend cannot go on writing."""
    written = 0

    def bind(server: WireServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await server.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
            for _ in range(1000):
                writer.write(b"x" * 100_000)
                await writer.drain()
                written += 100_000

        return handle

    async with wire_server(bind) as server:
        exchange = await send(transport, server.url)
        last = -1
        while written != last:  # until the kernel's buffers are full and nothing moves
            last = written
            await asyncio.sleep(0.1)
        assert written < 50_000_000
        await exchange.close()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, len(CHUNKED) - 1), max_size=12))
def test_any_byte_split_gives_the_same_answer(make: Make, cuts: list[int]) -> None:
    """However the bytes are cut on the way, the answer is the same and the connection is kept."""
    edges = [0, *sorted(set(cuts)), len(CHUNKED)]
    pieces = [CHUNKED[a:b] for a, b in pairwise(edges)]

    def bind(server: WireServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(2):
                await server.read_request(reader)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
            await reader.read()

        return handle

    async def run() -> None:
        transport = make()
        async with wire_server(bind) as server:
            assert await ask(transport, server.url) == (200, b"hello world")
            assert await ask(transport, server.url) == (200, b"hello world")
            assert server.connections == 1
        await transport.close()

    asyncio.run(run())


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=60), at=st.integers(0, len(CHUNKED)), kept=st.booleans())
def test_garbage_ends_in_an_answer_or_an_error(make: Make, noise: bytes, at: int, kept: bool) -> None:
    """Bytes spoilt anywhere never hang a request, and never leak into the next one."""
    spoilt = CHUNKED[:at] + noise + (CHUNKED[at:] if kept else b"")

    async def run() -> None:
        transport = make()
        async with wire_server(answers(spoilt, close=True)) as server:
            with suppress(UpstreamUnavailable):
                await asyncio.wait_for(ask(transport, server.url), 10)
        async with wire_server(answers(OK)) as server:
            assert await ask(transport, server.url) == (200, b"hello")
        await transport.close()

    asyncio.run(run())
