"""A soak's traffic: what is asked, what may come of it, and what came that nothing explains."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from shared.sse import DONE
from tests.integration.faults.clients import CLIENTS
from tests.integration.faults.faults import FAULTS, Fate

__all__ = ["ENDPOINTS", "Shape", "Traffic", "faults_for"]

_MIB = 1024 * 1024
_LIMIT = 32 * _MIB


@dataclass(frozen=True, slots=True)
class Shape:
    """The mix.

    Attributes:
        aborted: Share of requests whose client leaves early.
        faulty: Share that a backend fails on.
        huge: Share with a body of up to 20 MiB; one of twenty of them is beyond the limit.
        repeated: Share that may be answered from the cache.
        streamed: Share of streams.
        clients: Requests at a time.
    """

    aborted: float = 0.10
    faulty: float = 0.05
    huge: float = 0.01
    repeated: float = 0.10
    streamed: float = 0.6
    clients: int = 24


Body = Callable[[str, str, bool], dict[str, Any]]
ENDPOINTS: Mapping[str, Body] = {
    "/v1/chat/completions": lambda model, text, stream: {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
    },
    "/v1/messages": lambda model, text, stream: {
        "model": model,
        "max_tokens": 500,
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
    },
    "/v1/responses": lambda model, text, stream: {"model": model, "input": text, "stream": stream},
    "/v1/completions": lambda model, text, stream: {"model": model, "prompt": text, "stream": stream},
    "/v1/embeddings": lambda model, text, _stream: {"model": model, "input": text},
}
_READERS = {client.path: client for client in CLIENTS.values()}
_PLAIN = ("/v1/completions", "/v1/embeddings")
"""Endpoints that the faults' acts do not speak."""


def faults_for(dialect: str, stream: bool) -> list[tuple[str, Fate]]:
    """Return the faults that a request may meet, and what comes of each: those that are over within seconds."""
    return [
        (name, fate)
        for name, fault in FAULTS.items()
        if not fault.place
        and "Retry-After: 60" not in fault.says
        and (fate := fault.fate(dialect, stream)) is not None
        and "`total`" not in fate.lasts
        and "`connect`" not in fate.lasts
    ]


@dataclass
class Traffic:
    """Runs clients until a moment, and keeps count.

    Args:
        url: The router's.
        dialects: Those of the backends.
        endpoints: The paths that the router has.
        shape: The mix.
        seed: Of all chance.
    """

    url: str
    dialects: Sequence[str]
    endpoints: Sequence[str]
    shape: Shape
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)

    async def run(self, until: float) -> None:
        """Keep all clients busy until `until` (`time.monotonic` seconds)."""
        limits = httpx.Limits(max_connections=self.shape.clients + 8, max_keepalive_connections=self.shape.clients)
        async with httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits, trust_env=False) as client:
            lots = [random.Random(f"{self.seed}-{number}") for number in range(self.shape.clients)]  # noqa: S311
            await asyncio.gather(*(self._client(client, chance, until) for chance in lots))

    async def _client(self, client: httpx.AsyncClient, chance: random.Random, until: float) -> None:
        while time.monotonic() < until:
            try:
                await self._request(client, chance)
            except httpx.HTTPError as error:
                self._complain(f"the router's connection: {error!r}")
            await asyncio.sleep(chance.expovariate(1 / 0.05))

    async def _request(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        shape, lot = self.shape, chance.random()
        path = self.endpoints[0] if chance.random() < 0.6 else chance.choice(self.endpoints)
        stream = chance.random() < shape.streamed and path != "/v1/embeddings"
        dialect = "openai" if path in _PLAIN else chance.choice(self.dialects)
        model, text, fate = f"pair-{dialect}", f"{chance.random()} soak-words={chance.randrange(1, 200)}", None
        kind = "plain"
        if lot < shape.faulty and path not in _PLAIN:
            kind = "faulty"
            name, fate = chance.choice(faults_for(dialect, stream))
            alone = chance.random() < 0.5
            model = f"{'solo' if alone else 'pair'}-{dialect}"
            # The other candidate must say the same where it is to go on, and the fixed answer has four words.
            text = f"{chance.random()} soak-words=4 soak-fault={name}@{'solo' if alone else 'first'}"
        elif lot < shape.faulty + shape.huge:
            kind = "huge"
            size = _LIMIT + _MIB if chance.random() < 0.05 else int(20 * _MIB * chance.random())
            text = "x" * size + text
        elif lot < shape.faulty + shape.huge + shape.repeated:
            kind, text = "repeated", f"again {chance.randrange(20)} soak-words=4"
        body = ENDPOINTS[path](model, text, stream)
        if kind == "repeated" and path in ("/v1/chat/completions", "/v1/completions"):
            body["temperature"] = 0
        if chance.random() < shape.aborted:
            await self._abort(client, path, body, chance)
            return
        self.counts[f"{kind} {'stream' if stream else 'whole'}"] += 1
        self.counts[path] += 1
        reply = await client.post(path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})
        self._judge(reply, stream, fate, model, kind, len(text))

    async def _abort(self, client: httpx.AsyncClient, path: str, body: dict[str, Any], chance: random.Random) -> None:
        """Leave before the head, or after some of the answer."""
        self.counts["aborted"] += 1

        async def listen() -> None:
            async with client.stream("POST", path, json=body) as reply:
                async for _ in reply.aiter_raw():
                    if chance.random() < 0.2:
                        break

        with contextlib.suppress(asyncio.TimeoutError, httpx.TransportError):
            await asyncio.wait_for(listen(), chance.expovariate(1 / 0.03))

    def _judge(self, reply: httpx.Response, stream: bool, fate: Fate | None, model: str, kind: str, size: int) -> None:
        """Compare what came with what may come."""
        seen = _seen(reply, reply.request.url.path, stream)
        wanted = {"answer"}
        if fate is not None and model.startswith("solo"):
            wanted = {_known(fate.alone.split()[0], reply)}
        elif fate is not None and fate.paired == "joined" and "messages" in reply.request.url.path:
            wanted |= {"cut"}  # an `anthropic` backend's own stream is passed on as it comes
        elif fate is not None and fate.paired == "same":
            wanted |= {_known(fate.alone.split()[0], reply)}  # whichever of the two was asked first
        elif kind == "huge" and size > _LIMIT:
            wanted = {"413"}
        if seen in wanted or (seen == "answer" and "said" in wanted):
            self.counts[f"seen {seen}"] += 1
        else:
            self._complain(
                f"{kind} {model} {reply.request.url.path} stream={stream} {fate}: {seen}, not {wanted}: "
                f"{reply.text[-120:]!r}"
            )

    def _complain(self, what: str) -> None:
        self.counts["unexplained"] += 1
        if len(self.unexplained) < 20:
            self.unexplained.append(what)


def _known(status: str, reply: httpx.Response) -> str:
    """Return the status by which the client's dialect knows what others know by another."""
    reader = _READERS.get(reply.request.url.path)
    return status if reader is None or not status.isdecimal() else str(reader.status(int(status)))


def _seen(reply: httpx.Response, path: str, stream: bool) -> str:
    """Return what a client makes of an answer: `answer`, `cut`, a status, or what is wrong with it."""
    if reply.status_code != 200:
        return str(reply.status_code)
    if path not in _READERS:
        return "answer" if not stream or reply.content.endswith(DONE) else "truncated"
    reader = _READERS[path]
    read = reader.stream(reply.content) if stream else reader.whole(reply.content)
    if read.problems:
        return "; ".join(read.problems)
    if read.error is not None:
        return "cut" if stream else f"an error in a 200: {read.error}"
    return "answer" if read.ended else "truncated"
