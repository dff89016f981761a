"""The worker's end of the link: it answers, and it hears the parent's end."""

from __future__ import annotations

import asyncio
import socket

from router.workers.link import PING, PONG, READY, ParentLink


async def test_link_answers_and_hears_the_end() -> None:
    """A ping is answered by the event loop; the parent's end is told once."""
    parent, ours = socket.socketpair()
    parent.setblocking(False)
    link = ParentLink(ours.detach())
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    link.watch(loop, gone.set)
    link.ready()
    assert await loop.sock_recv(parent, 10) == READY
    await loop.sock_sendall(parent, PING)
    assert await loop.sock_recv(parent, 10) == PONG
    assert not link.lost
    parent.close()
    await asyncio.wait_for(gone.wait(), 10)
    assert link.lost
    link.close(loop)


async def test_link_to_a_dead_parent_can_be_written_to() -> None:
    """A worker whose parent has ended meanwhile does not fail over it."""
    parent, ours = socket.socketpair()
    link = ParentLink(ours.detach())
    parent.close()
    link.ready()
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    link.watch(loop, gone.set)
    await asyncio.wait_for(gone.wait(), 10)
    link.close(loop)
