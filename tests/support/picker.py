"""A stand-in for llm-d's endpoint picker: it speaks Envoy's ext_proc over gRPC and picks what the test says.

Like the real one it takes a request whole before it answers for its headers, and passes every byte of both bodies on.
Messages are written and read by field number (envoy/service/ext_proc/v3/external_processor.proto).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio

__all__ = ["Asked", "Picker", "Refusal", "picker"]

_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
_REQUEST_HEADERS, _RESPONSE_HEADERS, _REQUEST_BODY, _RESPONSE_BODY, _REQUEST_TRAILERS, _RESPONSE_TRAILERS = range(2, 8)
_IMMEDIATE = 7
_OVERWRITE = 2
_PIECE = 62_000


@dataclass
class Asked:
    """One request, as the picker sees it.

    Attributes:
        told: The body of the answer that passed by.
        done: Whether the answer has passed to its end.
    """

    headers: dict[str, str]
    body: bytes = b""
    told: bytes = b""
    done: bool = False


@dataclass(frozen=True)
class Refusal:
    """An answer of the picker's own."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Picker:
    """The running stand-in.

    Attributes:
        pick: Returns the headers to set on a request, or refuses it.
    """

    pick: Callable[[Asked], dict[str, str] | Refusal] = field(default=lambda _: {})
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    server: grpc.aio.Server = field(default_factory=grpc.aio.server)

    async def start(self) -> None:
        """Listen, on a free port."""
        handler = grpc.stream_stream_rpc_method_handler(self.process)
        service = grpc.method_handlers_generic_handler(_SERVICE, {"Process": handler})
        self.server.add_generic_rpc_handlers((service,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()

    async def stop(self) -> None:
        """Go away, in the middle of what it does."""
        await self.server.stop(None)

    async def process(self, stream: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        """Answer for one request: one stream of messages, in the order in which Envoy sends them."""
        asked = Asked({})
        self.asked.append(asked)
        async for message in stream:
            ((kind, content),) = [(number, value) for number, value in _fields(message) if number in range(2, 8)]
            for reply in self._replies(asked, kind, content):
                yield reply
        asked.done = True

    def _replies(self, asked: Asked, kind: int, content: bytes) -> list[bytes]:
        parts = dict(_fields(content))
        if kind == _REQUEST_HEADERS:
            asked.headers = _headers(parts[1])
            return [self._picked(asked)] if parts.get(3) else []
        if kind == _REQUEST_BODY:
            asked.body += parts.get(1, b"")
            return [self._picked(asked), *_pieces(asked.body)] if parts.get(2) else []
        if kind == _RESPONSE_HEADERS:
            return [_message(2, b"")]
        if kind == _RESPONSE_BODY:
            asked.told += parts.get(1, b"")
            return [_body(4, parts.get(1, b""), last=bool(parts.get(2)))]
        return [_message({_REQUEST_TRAILERS: 5, _RESPONSE_TRAILERS: 6}[kind], b"")]

    def _picked(self, asked: Asked) -> bytes:
        picked = self.pick(asked)
        if isinstance(picked, Refusal):
            status = _message(1, _number(1, picked.status))
            return _message(_IMMEDIATE, status + _message(2, _mutation(picked.headers)) + _message(3, picked.body))
        return _message(1, _message(1, _message(2, _mutation(picked))))


def _mutation(headers: dict[str, str]) -> bytes:
    options = (_message(1, _message(1, name.encode()) + _message(3, value.encode())) for name, value in headers.items())
    return b"".join(_message(1, option + _number(3, _OVERWRITE)) for option in options)


def _pieces(body: bytes) -> list[bytes]:
    """Hand a request's body back in messages of a size that gRPC takes."""
    starts = range(0, max(len(body), 1), _PIECE)
    return [_body(3, body[at : at + _PIECE], last=at + _PIECE >= len(body)) for at in starts]


def _body(kind: int, data: bytes, *, last: bool) -> bytes:
    streamed = _message(1, data) + _number(2, last)
    return _message(kind, _message(1, _message(3, _message(3, streamed))))


def _headers(content: bytes) -> dict[str, str]:
    found = (dict(_fields(value)) for _, value in _fields(content))
    return {header[1].decode(): (header.get(3) or header.get(2, b"")).decode() for header in found}


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _number(field_number: int, value: int) -> bytes:
    return _varint(field_number << 3) + _varint(value)


def _message(field_number: int, content: bytes) -> bytes:
    return _varint(field_number << 3 | 2) + _varint(len(content)) + content


def _fields(content: bytes) -> list[tuple[int, bytes]]:
    """Return the fields of a message; a number comes as one byte that is empty for 0."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(content):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag >> 3, b"\1" if varint() else b""))
        else:
            size = varint()
            found.append((tag >> 3, content[at : at + size]))
            at += size
    return found


@asynccontextmanager
async def picker() -> AsyncIterator[Picker]:
    """Run a picker on a free port while the context lasts."""
    running = Picker()
    await running.start()
    try:
        yield running
    finally:
        await running.stop()
