"""The router's own work on a request, without sockets: `python -m scripts.bench.inprocess`.

Everything is real but the bytes' way: a request goes through the server's protocol, the gateway and
the lean transport, over in-memory connections to a backend that answers at once. What is left out
is the kernel's part, so this is what profiling and tuning the Python part look at.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from uvicorn.server import ServerState

from router.api.deps import Services
from router.main import open_services
from router.registry.manifest import parse_manifest
from router.registry.store import open_store
from router.server.protocol import DataPlaneProtocol
from router.settings import RouterSettings
from router.transport import lean
from router.transport.connection import Connection

_ROUNDS = 20
_TOP = 400
_USAGE = {"prompt_tokens": 42, "completion_tokens": 57, "total_tokens": 99}
_WHOLE = {
    "id": "chatcmpl-9f2c1d7e8b6a4c3d9e0f1a2b",
    "object": "chat.completion",
    "created": 1760000000,
    "model": "mock-model",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 50}, "finish_reason": "stop"}],
    "usage": _USAGE,
}


def _chunk(delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    data = b"data: " + json.dumps({**event, **more}).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Pipe:
    """An in-memory transport: what is written goes to a callback."""

    def __init__(self, written: Any) -> None:
        self._written = written

    def write(self, data: bytes) -> None:
        self._written(data)

    def writelines(self, parts: Any) -> None:
        self._written(b"".join(parts))

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        return

    close = pause_reading = resume_reading = abort


class _Backend:
    """Answers every request at once: a whole answer, or a stream of some chunks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chunks: int) -> None:
        body = json.dumps(_WHOLE).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._loop = loop
        self._whole = head + body
        stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        first, word = _chunk({"role": "assistant", "content": ""}), _chunk({"content": " word"})
        last = _chunk({}, "stop", usage=_USAGE) + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
        self._pieces = [stream + first, *[word] * (chunks - 2), last] if chunks else []

    async def connect(self, pool: Any, _seconds: float) -> Connection:
        """Stand in for a pool's way to open a connection."""
        connection = Connection(self._loop, pool._outbox)
        connection.connection_made(_Pipe(lambda data: self._asked(connection, data)))  # type: ignore[arg-type]
        return connection

    def _asked(self, connection: Connection, _data: bytes) -> None:
        if self._pieces:
            self._send(connection, 0)
        else:
            self._loop.call_soon(connection.data_received, self._whole)

    def _send(self, connection: Connection, index: int) -> None:
        if index:
            connection.data_received(self._pieces[index - 1])
        if index < len(self._pieces):
            self._loop.call_soon(self._send, connection, index + 1)


def _request(chunks: int, key: str) -> bytes:
    body = {"model": "mock-model", **({"stream": True} if chunks else {}), "temperature": 0.7, "max_tokens": 64}
    text = 'Lorem ipsum "dolor" sit amet, consectetur\nadipiscing elit, sed do eiusmod tempor. ' * 9
    messages = [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": text}]
    data = json.dumps({**body, "messages": messages}, separators=(",", ":")).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\n"
        b"Accept: */*\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
    ) % (key.encode(), len(data), data)


class _Clients:
    """Connections that each ask again as soon as they are answered."""

    def __init__(self, services: Services, message: bytes, connections: int, streams: bool) -> None:
        config, state = uvicorn.Config("router.main:create_app", factory=True), ServerState()
        self._message = message
        self._streams = streams
        self._left = 0
        self._open = 0
        self._done = asyncio.Event()
        self._protocols = []
        for index in range(connections):
            protocol = DataPlaneProtocol(config, state, {"services": services})
            protocol.connection_made(_Pipe(lambda data, index=index: self._written(index, data)))  # type: ignore[arg-type]
            self._protocols.append(protocol)

    async def run(self, requests: int) -> None:
        """Have so many requests answered."""
        self._left, self._open = requests, 0
        self._done.clear()
        for index in range(len(self._protocols)):
            self._ask(index)
        await self._done.wait()

    def _ask(self, index: int) -> None:
        if self._left > 0:
            self._left -= 1
            self._open += 1
            self._protocols[index].data_received(self._message)

    def _written(self, index: int, data: bytes) -> None:
        if self._streams and not data.endswith(b"0\r\n\r\n"):
            return
        self._open -= 1
        if self._left > 0:
            asyncio.get_running_loop().call_soon(self._ask, index)
        elif self._open == 0:
            self._done.set()


def manifest(deployments: int) -> str:
    """Return a manifest with one model on so many deployments."""
    places = [
        f"      - {{backend: mock, upstream_model: mock-{n}, price: {{input: 0.1, output: 0.2}}, "
        "limits: {max_concurrency: 100000}}"
        for n in range(deployments)
    ]
    return "\n".join(
        [
            "backends:",
            '  - {name: mock, dialect: openai, base_url: "http://127.0.0.1:9/v1", tier: external}',
            "models:",
            "  - id: mock-model",
            "    capabilities: [chat]",
            "    deployments:",
            *places,
        ]
    )


async def measure(
    folder: Path, deployments: int, requests: int, chunks: int, connections: int, profile: bool
) -> tuple[float, float]:
    """Return microseconds of this process's CPU per request: the least disturbed round's, and the median round's."""
    store = open_store(folder / "models.db")
    store.apply(parse_manifest(manifest(deployments)))
    key = store.create_key("bench").key
    store.close()
    settings = RouterSettings(
        sqlite_db_path=folder / "models.db", redis_url="redis://127.0.0.1:1/0", local_agent_url="off"
    )
    loop = asyncio.get_running_loop()
    backend = _Backend(loop, chunks)

    def backend_connect(pool: Any, seconds: float) -> Any:
        return backend.connect(pool, seconds)

    lean._Pool.connect = backend_connect  # type: ignore[method-assign,assignment]
    async with open_services(settings) as services:
        clients = _Clients(services, _request(chunks, key), connections, streams=bool(chunks))
        run = clients.run
        await run(200)
        if profile:
            with cProfile.Profile() as profiler:
                await run(requests)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(_TOP)
        rounds = []
        for _ in range(_ROUNDS):
            before = time.process_time()
            await run(requests // _ROUNDS)
            rounds.append((time.process_time() - before) / (requests // _ROUNDS) * 1e6)
    return min(rounds), statistics.median(rounds)


def main() -> None:
    """Print microseconds of CPU per request, or per chunk of a stream."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deployments", type=int, default=100)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--chunks", type=int, default=0, help="answer as a stream of so many chunks")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        best, usual = uvloop.run(
            measure(Path(folder), asked.deployments, asked.requests, asked.chunks, asked.connections, asked.profile)
        )
    per = max(asked.chunks, 1)
    print(
        f"us of CPU per {'chunk' if asked.chunks else 'request'}: {best / per:.2f} at best, {usual / per:.2f} usually"
    )


if __name__ == "__main__":
    main()
