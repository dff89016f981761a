"""What the benchmark's tests share: the built programs, and servers that answer whatever they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from scripts.bench import native

WORDS = "".join(
    re.findall(r'"(.*?)"', (Path(native.__file__).parent / "answer.h").read_text().partition("ANSWER_TEXT")[2])[:3]
)
"""The mock's answer, as its header has it."""


@contextlib.asynccontextmanager
async def answering(answer: bytes, *, keep: bool = True) -> AsyncIterator[int]:
    """Serve these very bytes to every request; yield the port.

    Args:
        answer: The whole answer; empty: none ever comes.
        keep: Whether the connection stays open behind it.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, flags=re.IGNORECASE)
                assert length is not None
                await reader.readexactly(int(length[1]))
                writer.write(answer)
                await writer.drain()
                if not keep:
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def load(tools: native.Tools, port: int, folder: Path, *options: str) -> dict[str, Any]:
    """Run the load generator and return what it tells."""
    request = folder / "request.json"
    if not request.exists():
        request.write_text('{"model": "mock-model", "messages": []}')
    command = [str(tools.load), "-P", str(port), "-b", str(request), *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    told: dict[str, Any] = json.loads(out)
    return told


def with_length(body: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An answer with a length, the right one if none is given."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body) if length is None else length}\r\n\r\n{body}".encode()


def in_chunks(*pieces: str, end: str = "0\r\n\r\n") -> bytes:
    """An answer in HTTP chunks."""
    head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return (head + "".join(f"{len(piece):x}\r\n{piece}\r\n" for piece in pieces) + end).encode()


def completion(words: str = WORDS) -> str:
    """A chat completion with these words."""
    return json.dumps({"choices": [{"message": {"content": words}}], "usage": {"total_tokens": 3}})


def events(*indices: int, done: bool = True) -> list[str]:
    """A stream with chunks of these numbers."""
    chunks = [
        "data: " + json.dumps({"choices": [{"delta": {"content": f" @{0:016d}#{index:05d}"}}]}) + "\n\n"
        for index in indices
    ]
    return [*chunks, *(["data: [DONE]\n\n"] if done else [])]
