"""Accepting from a socket that several processes share, so that each gets its part."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
from collections.abc import Callable

__all__ = ["Acceptor"]

_log = logging.getLogger(__name__)
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_HESITATION = 0.0005
"""Seconds; longer than it takes an idle process to wake up and be first."""


class Acceptor:
    """Makes connections of what comes in; like `asyncio.Server` where uvicorn needs it to be.

    An event loop's own server takes everything that waits as soon as it wakes: sixteen connections,
    opened at once and kept for hours, all end up on one worker. Here the more connections a worker
    has, the longer it hesitates (two milliseconds at sixteen), and one that has fewer is first. The
    more it has, the more it then takes, so that thousands do not have to wait for long.

    Args:
        loop: The event loop.
        listener: The shared socket, already listening.
        protocol: Makes the protocol of one connection.
        load: Says how many connections this process has.
        pause: Seconds without accepting where there is no descriptor left for a connection.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        load: Callable[[], int],
        pause: float = 1.0,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._protocol = protocol
        self._load = load
        self._pause = pause
        self._opening: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept no more; the socket stays open, it is the others' as well."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()

    async def wait_closed(self) -> None:
        """Wait for connections that are just being made."""
        if self._opening:
            await asyncio.wait(self._opening)

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._come)

    def _rest(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, then)

    def _come(self) -> None:
        """Something waits: take it, or let others be first."""
        load = self._load() + len(self._opening)
        if load == 0:
            self._take(1)
        else:
            self._rest(_HESITATION * math.log2(1 + load), lambda: self._take_and_listen(1 + load // 4))

    def _take_and_listen(self, most: int) -> None:
        self._listen()
        self._take(most)

    def _take(self, most: int) -> None:
        for _ in range(most):
            try:
                connection, _address = self._listener.accept()
            except OSError as error:
                if error.errno in _NO_ROOM:
                    _log.error("no connection can be accepted", extra={"fields": {"reason": error.strerror}})
                    self._rest(self._pause, self._listen)
                return  # another worker was first, or the client has left
            connection.setblocking(False)
            opening = self._loop.create_task(self._open(connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> object:
        try:
            return await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
            return None
