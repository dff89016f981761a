"""A load balancer for tests: TCP connections go in turn to the routers whose `/readyz` says 200."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httpx

_EVERY = 0.05


class Balancer:
    """What a Kubernetes Service and its readiness probes do: it chooses by connection, and knows nothing of HTTP."""

    def __init__(self) -> None:
        self.url = ""
        self.ready: list[str] = []
        """The URLs of those that get new connections."""
        self._turn = itertools.count()
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._pipes: set[asyncio.Task[None]] = set()

    def add(self, url: str) -> None:
        """Probe a router from now on."""
        self._probes[url] = asyncio.create_task(self._probe(url))

    async def remove(self, url: str) -> None:
        """Forget a router; connections to it stay."""
        task = self._probes.pop(url)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def _probe(self, url: str) -> None:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            while True:
                try:
                    ready = (await client.get(url + "/readyz")).status_code == 200
                except httpx.TransportError:
                    ready = False
                if ready != (url in self.ready):
                    (self.ready.append if ready else self.ready.remove)(url)
                await asyncio.sleep(_EVERY)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        place = urlsplit(self.ready[next(self._turn) % len(self.ready)])
        theirs, ours = await asyncio.open_connection(place.hostname, place.port)
        pipes = [asyncio.create_task(_pipe(reader, ours)), asyncio.create_task(_pipe(theirs, writer))]
        self._pipes.update(pipes)
        for pipe in pipes:
            pipe.add_done_callback(self._pipes.discard)
        await asyncio.wait(pipes)
        for end in (writer, ours):
            end.close()

    async def close(self) -> None:
        """Stop probing and cut what is still connected."""
        for task in [*self._probes.values(), *self._pipes]:
            task.cancel()
        await asyncio.gather(*self._probes.values(), *self._pipes, return_exceptions=True)


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    with suppress(OSError):
        sink.write_eof()


@asynccontextmanager
async def load_balancer() -> AsyncIterator[Balancer]:
    """Run a load balancer on a free port."""
    balancer = Balancer()
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", 0)
    balancer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield balancer
    finally:
        server.close()
        await balancer.close()
