"""Compressed request bodies: unpacked piece by piece, so that a small one never fills the memory.

gzip and deflate come with Python; brotli and zstd need the extra `compression` (zstd only before Python 3.14).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, Protocol

from shared.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType

__all__ = ["decode_body", "read_encodings"]

_PIECE = 64 * 1024
_MOST = 5
"""Encodings that may be applied on top of each other."""
_GZIP, _RAW = zlib.MAX_WBITS | 16, -zlib.MAX_WBITS
_ZSTD_WINDOW = 23
"""The largest window, as a power of two, that RFC 9659 lets a content coding have: 8 MiB."""
_EXTRA = "it needs the extra `compression`"


class _Damaged(Exception):
    """The data is not what its encoding says."""


class _Unpacker(Protocol):
    """One compressed stream; never gives more than `_PIECE` bytes at a time."""

    eof: bool
    rest: bytes
    """What follows behind the end."""

    def take(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` unpacks to."""
        ...


class _Zlib:
    def __init__(self, wbits: int) -> None:
        self._unpack = zlib.decompressobj(wbits)
        self.eof = False
        self.rest = b""

    def take(self, data: bytes) -> Iterator[bytes]:
        while piece := self._unpack.decompress(data, _PIECE):
            yield piece
            data = self._unpack.unconsumed_tail
        self.eof, self.rest = self._unpack.eof, self._unpack.unused_data


class _Brotli:
    def __init__(self, module: Any) -> None:
        self._unpack = module.Decompressor()
        self.eof = False
        self.rest = b""

    def take(self, data: bytes) -> Iterator[bytes]:
        while piece := self._unpack.process(data, output_buffer_limit=_PIECE):
            yield piece
            data = b""
            if self._unpack.is_finished():
                break
        self.eof = self._unpack.is_finished()


class _Zstd:
    def __init__(self, module: Any) -> None:
        self._unpack = module.ZstdDecompressor(options={module.DecompressionParameter.window_log_max: _ZSTD_WINDOW})
        self.eof = False
        self.rest = b""

    def take(self, data: bytes) -> Iterator[bytes]:
        while True:
            if piece := self._unpack.decompress(data, _PIECE):
                yield piece
            data = b""
            if self._unpack.eof or self._unpack.needs_input:
                break
        self.eof, self.rest = self._unpack.eof, self._unpack.unused_data


def _deflate(body: bytes) -> _Zlib:
    """Return what unpacks `deflate`: zlib's format by the standard, the bare one by long habit."""
    zlib_head = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _Zlib(zlib.MAX_WBITS if zlib_head else _RAW)


def _zstd_module() -> Any:
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


_UNPACKERS: Mapping[str, Callable[[bytes], _Unpacker]] = {
    "gzip": lambda _: _Zlib(_GZIP),
    "x-gzip": lambda _: _Zlib(_GZIP),
    "deflate": _deflate,
    "br": lambda _: _Brotli(import_module("brotli")),
    "zstd": lambda _: _Zstd(_zstd_module()),
}


def read_encodings(header: str) -> tuple[str, ...]:
    """Return the encodings that a `Content-Encoding` header names, in the order they were applied.

    Raises:
        UnsupportedMediaType: One of them is unknown, or needs what is not installed; `Accept-Encoding` tells
            which are at hand.
        InvalidRequest: There are too many.
    """
    names = tuple(name for part in header.split(",") if (name := part.strip().lower()) not in ("", "identity"))
    if len(names) > _MOST:
        raise InvalidRequest(f"The request body is compressed more than {_MOST} times.")
    for name in names:
        if name not in _UNPACKERS:
            raise _unsupported(f"Request bodies with content-encoding {name[:32]!r} cannot be read.")
        if not _at_hand(name):
            raise _unsupported(f"Request bodies with content-encoding {name!r} cannot be read here: {_EXTRA}.")
    return names


def _at_hand(name: str) -> bool:
    try:
        _UNPACKERS[name](b"")
    except ImportError:
        return False
    return True


def _unsupported(message: str) -> UnsupportedMediaType:
    error = UnsupportedMediaType(message)
    error.extra_headers = {"accept-encoding": ", ".join(name for name in _UNPACKERS if _at_hand(name))}
    return error


def decode_body(body: bytes, encodings: tuple[str, ...], limit: int) -> bytes:
    """Return a body without its encodings.

    Args:
        body: As it came.
        encodings: In the order they were applied; see `read_encodings`.
        limit: The largest body accepted, in bytes, at every step.

    Raises:
        InvalidRequest: The body is not what its encoding says, or is cut off.
        PayloadTooLarge: It unpacks to more than `limit`.
    """
    for name in reversed(encodings):
        parts: list[bytes] = []
        size = 0
        try:
            for piece in _unpacked(name, body):
                size += len(piece)
                if size > limit:
                    raise PayloadTooLarge(f"The request body exceeds the limit of {limit} bytes once it is unpacked.")
                parts.append(piece)
        except PayloadTooLarge:
            raise
        except Exception as error:  # each library has its own
            raise InvalidRequest(f"The request body is not valid {name}.") from error
        body = b"".join(parts)
    return body


def _unpacked(name: str, body: bytes) -> Iterator[bytes]:
    """Yield what a body unpacks to; members behind the first, as gzip and zstd allow, follow on it."""
    make = _UNPACKERS[name]
    unpacker = make(body)
    for start in range(0, len(body), _PIECE):
        data = body[start : start + _PIECE]
        while data:
            if unpacker.eof:
                if name in ("gzip", "x-gzip") and not data.strip(b"\0"):
                    break  # padding
                if name in ("br", "deflate"):
                    raise _Damaged
                unpacker = make(b"")
            yield from unpacker.take(data)
            data = unpacker.rest if unpacker.eof else b""
    if body and not unpacker.eof:
        raise _Damaged
