"""The lean transport beyond the contract: TLS, and the one safe resend."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from router.transport.lean import LeanTransport
from shared.errors import UpstreamUnavailable
from tests.support.sending import send, whole
from tests.support.wire_server import Handler, WireServer, answers, wire_server

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


async def ask(transport: LeanTransport, url: str) -> bytes:
    """Send a request and return the body."""
    exchange = await send(transport, url)
    try:
        return await whole(exchange)
    finally:
        await exchange.close()


async def test_lean_verifies_certificates() -> None:
    """A trusted certificate is accepted and its connection kept; any other is refused."""
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    async with wire_server(answers(OK, OK, OK), theirs) as server:
        trusting, strange = LeanTransport(tls=lambda: ours), LeanTransport()
        assert await ask(trusting, server.url) == b"hello"
        assert await ask(trusting, server.url) == b"hello"
        assert server.connections == 1
        with pytest.raises(UpstreamUnavailable):
            await ask(strange, server.url)
        await trusting.close()
        await strange.close()


async def test_lean_sends_again_only_what_nobody_began_to_answer() -> None:
    """A kept connection that ends without a byte costs one resend; half an answer, or a fresh one, none."""
    turn = [OK, b"", OK, b"HTTP/1.1 200", OK, OK]

    def bind(server: WireServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await server.read_request(reader)
                answer = turn.pop(0)
                writer.write(answer)
                await writer.drain()
                if answer != OK:
                    return

        return handle

    async with wire_server(bind) as server:
        transport = LeanTransport()
        assert await ask(transport, server.url) == b"hello"
        assert await ask(transport, server.url) == b"hello"  # the kept connection ends, a fresh one answers
        assert len(server.requests) == 3
        with pytest.raises(UpstreamUnavailable):
            await ask(transport, server.url)  # half a head is an answer that began
        assert len(server.requests) == 4
        assert await ask(transport, server.url) == b"hello"
        await transport.close()

    async with wire_server(answers(b"", close=True)) as server:
        transport = LeanTransport()
        with pytest.raises(UpstreamUnavailable):
            await ask(transport, server.url)
        assert len(server.requests) == 1
        await transport.close()
