"""Length-prefixed msgpack frames over the socket between the web process and its worker."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Generic, TypeVar

import msgspec

from local_agent.types import FromWorker, ToWorker

__all__ = ["Codec", "FrameTooLarge", "from_worker", "read_frame", "receive_frame", "to_worker"]

T = TypeVar("T")
_LENGTH = struct.Struct(">I")
_LIMIT = 256 * 1024 * 1024


class FrameTooLarge(ValueError):
    """A length prefix that no honest peer sends: the stream is out of step."""


class Codec(Generic[T]):
    """Encodes and decodes the messages of one direction.

    Args:
        decoder: A msgspec decoder for the direction's union of structs.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()

    def encode(self, message: T) -> bytes:
        """Return one whole frame."""
        body = self._encoder.encode(message)
        return _LENGTH.pack(len(body)) + body

    def decode(self, body: bytes) -> T:
        """Return the message of a frame's body."""
        return self._decoder.decode(body)


def to_worker() -> Codec[ToWorker]:
    """Return the codec of messages to the worker."""
    return Codec(msgspec.msgpack.Decoder(ToWorker))


def from_worker() -> Codec[FromWorker]:
    """Return the codec of messages from the worker."""
    return Codec(msgspec.msgpack.Decoder(FromWorker))


def _checked(length: int) -> int:
    if length > _LIMIT:
        raise FrameTooLarge(f"a frame of {length} bytes")
    return length


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the next frame's body.

    Raises:
        asyncio.IncompleteReadError: The peer has closed.
        FrameTooLarge: The stream is out of step.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return await reader.readexactly(_checked(length))


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < size:
        chunk = connection.recv(min(size - len(chunks), 1 << 20))
        if not chunk:
            raise EOFError
        chunks += chunk
    return bytes(chunks)


def receive_frame(connection: socket.socket) -> bytes:
    """Return the next frame's body from a blocking socket.

    Raises:
        EOFError: The peer has closed.
        FrameTooLarge: The stream is out of step.
    """
    (length,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size))
    return _receive_exactly(connection, _checked(length))
