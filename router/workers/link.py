"""A worker's link to its parent: signs of life one way, the news of the parent's death the other."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the parent knows this module as well, and needs no event loop
    import asyncio

__all__ = ["PING", "PONG", "READY", "ParentLink"]

PING = b"?"
PONG = b"."
READY = b"+"


class ParentLink:
    """The worker's end.

    The parent asks and the event loop answers, so that a loop that hangs is silent. The link ends
    when the parent does, however that comes about.

    Args:
        descriptor: The inherited descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self.lost = False
        """Whether the parent has ended."""

    def watch(self, loop: asyncio.AbstractEventLoop, gone: Callable[[], None]) -> None:
        """Answer the parent for as long as the loop runs; call `gone` once it has ended."""
        loop.add_reader(self._socket, self._read, loop, gone)

    def ready(self) -> None:
        """Tell the parent that this worker serves."""
        self._send(READY)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer no more; the parent takes this for the worker's end."""
        loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self, loop: asyncio.AbstractEventLoop, gone: Callable[[], None]) -> None:
        try:
            asked = self._socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            asked = b""
        if asked:
            self._send(PONG)
            return
        self.lost = True
        loop.remove_reader(self._socket)
        gone()

    def _send(self, message: bytes) -> None:
        with suppress(OSError):  # a parent that is gone is noticed by reading
            self._socket.send(message)
