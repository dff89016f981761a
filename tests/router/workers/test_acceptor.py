"""Accepting from a shared socket: whoever has less to do is first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from router.workers.acceptor import Acceptor
from tests.support.waiting import eventually


@pytest.fixture
async def listener() -> AsyncIterator[socket.socket]:
    """A listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


class Connection(asyncio.Protocol):
    """Says the name of whoever accepted it, and ends."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write and close."""
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._name)
        transport.close()


def acceptor(listener: socket.socket, name: bytes, load: Callable[[], int]) -> Acceptor:
    """Return an acceptor whose connections say a name."""
    return Acceptor(asyncio.get_running_loop(), listener, lambda: Connection(name), load)


async def asked(listener: socket.socket) -> bytes:
    """Connect and return what the server says."""
    reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
    said = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return said


async def test_acceptor_with_fewer_connections_is_first(listener: socket.socket) -> None:
    """A busy process leaves a connection to an idle one."""
    busy = acceptor(listener, b"busy", lambda: 2**40)
    idle = acceptor(listener, b"idle", lambda: 0)
    assert [await asked(listener) for _ in range(3)] == [b"idle"] * 3
    busy.close()
    idle.close()


@pytest.mark.parametrize("load", [1, 1000])
async def test_acceptor_takes_what_nobody_else_takes(listener: socket.socket, load: int) -> None:
    """A busy process alone takes everything, a burst too."""
    busy = acceptor(listener, b"busy", lambda: load)
    assert await asyncio.gather(*(asked(listener) for _ in range(40))) == [b"busy"] * 40
    busy.close()
    await busy.wait_closed()


async def test_closed_acceptor_leaves_the_socket_to_others(listener: socket.socket) -> None:
    """One that has ended takes nothing any more, also from the middle of its hesitation."""
    busy = acceptor(listener, b"busy", lambda: 2**200)
    asking = asyncio.ensure_future(asked(listener))
    await eventually(lambda: busy._timer is not None)
    busy.close()
    await busy.wait_closed()
    other = acceptor(listener, b"other", lambda: 0)
    assert await asking == b"other"
    other.close()
