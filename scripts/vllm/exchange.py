"""One recorded exchange: a request, and the answer as it came over the wire, chunk by chunk, up to how it ended."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

__all__ = ["Ask", "Exchange", "Moment", "converse", "read_exchange", "scrubbed", "write_exchange"]

Ending = Literal["whole", "closed", "reset"]
"""`closed` and `reset`: the connection ended before the answer was complete, orderly or not."""

_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Ask:
    """A request.

    Attributes:
        path: Where it goes.
        body: Sent as JSON with POST; None: it is a GET.
        headers: Sent beside those that a body needs.
    """

    path: str
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """Return its bytes on the wire."""
        content = b"" if self.body is None else json.dumps(self.body).encode()
        head = {"host": "llm-d", **self.headers}
        if self.body is not None:
            head |= {"content-type": "application/json", "content-length": str(len(content))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        return f"{'GET' if self.body is None else 'POST'} {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + content


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer.

    Attributes:
        ask: The request.
        status: The answer's status.
        headers: Its headers, in order.
        chunks: The chunks of a chunked body; the one piece of another.
        ends: How it ended.
    """

    ask: Ask
    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: tuple[bytes, ...]
    ends: Ending = "whole"

    @property
    def chunked(self) -> bool:
        """Whether the body came in chunks."""
        return ("transfer-encoding", "chunked") in self.headers

    @property
    def body(self) -> bytes:
        """The body without its framing."""
        return b"".join(self.chunks)

    @property
    def events(self) -> list[str]:
        """What the `data:` lines of a stream say."""
        return [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]

    @property
    def head(self) -> bytes:
        """The status line and the headers on the wire."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        return f"HTTP/1.1 {self.status} -\r\n{lines}\r\n".encode()

    def pieces(self) -> list[bytes]:
        """Return what comes behind the head, as it is on the wire: piece by piece, framing included."""
        if not self.chunked:
            return list(self.chunks)
        framed = [f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in self.chunks]
        return [*framed, b"0\r\n\r\n"] if self.ends == "whole" else framed


# --- over the wire -------------------------------------------------------------------------------

Moment = Callable[[], Awaitable[None]]
"""Something that happens within an answer."""


async def converse(port: int, ask: Ask, moment: Moment | None = None, after: int = 4) -> Exchange:
    """Send a request to a port of this machine and return what comes, to the byte.

    Args:
        port: Where the server listens.
        ask: The request.
        moment: Called once within the answer: this is when servers are killed.
        after: After how many chunks; 0: when the request is sent.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    chunks: list[bytes] = []
    ends: Ending = "whole"
    status = 0
    headers: tuple[tuple[str, str], ...] = ()
    try:
        writer.write(ask.encoded())
        await writer.drain()
        if moment is not None and after == 0:
            await moment()
        status, headers = _read_head(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _SECONDS))
        told = dict(headers)
        if told.get("transfer-encoding") != "chunked":
            chunks.append(await asyncio.wait_for(reader.readexactly(int(told.get("content-length", "0"))), _SECONDS))
        else:
            while (chunk := await asyncio.wait_for(_read_chunk(reader), _SECONDS)) is not None:
                chunks.append(chunk)
                if moment is not None and len(chunks) == after:
                    await moment()
    except asyncio.IncompleteReadError as cut:
        if not status:
            raise
        ends = "closed"
        chunks += [cut.partial] if cut.partial and not dict(headers).get("transfer-encoding") else []
    except ConnectionError:
        if not status:
            raise
        ends = "reset"
    finally:
        writer.transport.abort()
    return Exchange(ask, status, headers, tuple(chunks), ends)


def _read_head(head: bytes) -> tuple[int, tuple[tuple[str, str], ...]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ")[1]), tuple((name.lower(), value.strip()) for name, _, value in pairs)


async def _read_chunk(reader: asyncio.StreamReader) -> bytes | None:
    size = int(await reader.readuntil(b"\r\n"), 16)
    content = await reader.readexactly(size + 2)
    return content[:-2] if size else None


# --- without what names a machine or a moment ----------------------------------------------------

_FIXED = {"date": "Thu, 01 Jan 2026 00:00:00 GMT", "x-envoy-upstream-service-time": "1"}
_ID = re.compile(rb"\b(chatcmpl|cmpl|modelperm)-([0-9a-f-]{16,36})")
_CREATED = re.compile(rb'"created":\d{10}\b')
_FOLDED = re.compile("[\x85\u2028\u2029]")


def scrubbed(exchange: Exchange) -> Exchange:
    """Return an exchange with the same moment and the same ids in each; every piece keeps its length."""
    headers = tuple((name, _FIXED.get(name, value)) for name, value in exchange.headers)
    chunks = tuple(_plain(chunk) for chunk in exchange.chunks)
    return Exchange(exchange.ask, exchange.status, headers, chunks, exchange.ends)


def _plain(chunk: bytes) -> bytes:
    chunk = _ID.sub(lambda found: found[1] + b"-" + re.sub(rb"[0-9a-f]", b"0", found[2]), chunk)
    return _CREATED.sub(b'"created":1767225600', chunk)


# --- in a file -----------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def write_exchange(path: Path, about: str, exchange: Exchange) -> None:
    """Write an exchange to a file that people can read."""
    ask = exchange.ask
    request: dict[str, Any] = {"path": ask.path}
    request |= {"headers": dict(ask.headers)} if ask.headers else {}
    request |= {"body": _shortened(ask.body)} if ask.body is not None else {}
    told = {
        "request": request,
        "status": exchange.status,
        "headers": [f"{name}: {value}" for name, value in exchange.headers],
        "chunks": [_readable(chunk) for chunk in exchange.chunks],
        "ends": exchange.ends,
    }
    text = yaml.dump(told, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100_000)
    path.write_text("".join(f"# {line}\n" for line in about.splitlines()) + text, encoding="utf-8")


def read_exchange(path: Path) -> Exchange:
    """Return the exchange of a file."""
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    request = told["request"]
    ask = Ask(request["path"], request.get("body"), request.get("headers", {}))
    pairs = (line.partition(": ") for line in told["headers"])
    chunks = tuple(chunk if isinstance(chunk, bytes) else chunk.encode() for chunk in told["chunks"])
    return Exchange(ask, told["status"], tuple((name, value) for name, _, value in pairs), chunks, told["ends"])


def _readable(chunk: bytes) -> str | bytes:
    """Return a chunk as text, where YAML keeps that: a character may be cut in two, and some breaks are folded."""
    try:
        text = chunk.decode()
    except UnicodeDecodeError:
        return chunk
    return chunk if _FOLDED.search(text) else text


def _shortened(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's body with a long text cut off: what was too long for a model is too long for a file."""
    return {name: _cut(value) for name, value in body.items()}


def _cut(value: Any) -> Any:
    if isinstance(value, list):
        return [_cut(item) for item in value]
    if isinstance(value, dict):
        return {name: _cut(item) for name, item in value.items()}
    return value[:60] + "…" if isinstance(value, str) and len(value) > 200 else value
