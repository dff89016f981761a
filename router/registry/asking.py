"""Asking servers what they serve: a GET over plain asyncio, off the request path.

A full HTTP client costs every router five megabytes and a tenth of its start for one request a minute.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

import httptools

__all__ = ["Asker", "Asks", "Refused"]

_PORTS = {"http": 80, "https": 443}
_REASON = 2048
"""As much of a refusal as is read."""
_REASON_SECONDS = 0.25
"""As long as is waited for it, behind its status."""
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Refused(Exception):
    """The server answered, and not with success.

    Args:
        host: Whom was asked.
        status: The HTTP status.
        headers: The answer's headers, names in lower case.
        body: How the answer's body begins, where that came.
    """

    def __init__(self, host: str, status: int, headers: Mapping[str, str] = _NOTHING, body: bytes = b"") -> None:
        super().__init__(f"{host} answered {status}")
        self.status = status
        self.headers = headers
        self.body = body


class Asks(Protocol):
    """Sends GET requests."""

    async def get(self, url: str, headers: Mapping[str, str]) -> bytes:
        """Return the body of a successful answer; see `Asker.get`."""
        ...


class _Answer:
    """What httptools finds in the bytes of one answer."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip().lower()

    def on_headers_complete(self) -> None:
        """Learn the status; an interim answer (1xx) only goes before the one that counts."""
        self.status = self.parser.get_status_code()
        if self.status < 200:
            self.status, self.headers = 0, {}

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        self.body += data

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self.complete = self.status > 0

    @property
    def refused(self) -> bool:
        """Whether the status is known, and not one of success."""
        return self.status > 0 and not 200 <= self.status < 300

    def ended(self) -> None:
        """Take the end of the connection for the end of a body that nothing else ends.

        Raises:
            ConnectionError: The answer is cut off.
        """
        if not self.status or "content-length" in self.headers or "transfer-encoding" in self.headers:
            raise ConnectionError("the connection was closed before the answer was complete")
        self.complete = True


class Asker:
    """Sends GET requests, one connection each.

    Args:
        seconds: How long connecting, and each wait for bytes, may take.
        limit: Largest body, in bytes.
        tls: Verifies certificates; None for the system's trust, which is loaded with the first https URL.
    """

    def __init__(self, seconds: float = 10.0, limit: int = 32 * 1024 * 1024, tls: ssl.SSLContext | None = None) -> None:
        self._seconds = seconds
        self._limit = limit
        self._tls = tls

    async def get(self, url: str, headers: Mapping[str, str]) -> bytes:
        """Return the body of a successful answer.

        Args:
            url: `http://` or `https://`.
            headers: Sent with it.

        Raises:
            Refused: The status is not one of success; redirects are not followed.
            asyncio.TimeoutError: Nothing came for too long.
            OSError: The server cannot be reached, or went away.
            ValueError: The URL is none, or the answer cannot be read.
        """
        parts = urlsplit(url)
        message = _message(parts, headers)
        reader, writer = await asyncio.wait_for(self._open(parts), self._seconds)
        try:
            writer.write(message)
            answer = await self._read(reader, parts.hostname or "")
        finally:
            writer.transport.abort()
        return self._plain(answer)

    async def _open(self, parts: SplitResult) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if parts.scheme == "https" and self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return await asyncio.open_connection(
            parts.hostname, parts.port or _PORTS[parts.scheme], ssl=self._tls if parts.scheme == "https" else None
        )

    async def _read(self, reader: asyncio.StreamReader, host: str) -> _Answer:
        answer = _Answer()
        try:
            while not answer.complete:
                seconds = min(self._seconds, _REASON_SECONDS) if answer.refused else self._seconds
                data = await asyncio.wait_for(reader.read(65536), seconds)
                if not data:
                    answer.ended()
                    break
                try:
                    answer.parser.feed_data(data)
                except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
                    raise ValueError("the answer is not valid HTTP") from error
                if answer.refused and len(answer.body) > _REASON:
                    break
                if len(answer.body) > self._limit:
                    raise ValueError("the answer is too large")
        except (OSError, ValueError, asyncio.TimeoutError):
            if not answer.refused:  # a refusal is one, whatever becomes of its words
                raise
        if answer.refused:
            raise Refused(host, answer.status, answer.headers, bytes(answer.body[:_REASON]))
        return answer

    def _plain(self, answer: _Answer) -> bytes:
        """Return the body uncompressed: there are servers that compress unasked."""
        encoding = answer.headers.get("content-encoding", "identity")
        if encoding == "identity":
            return bytes(answer.body)
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise ValueError("the answer is compressed in a way that cannot be read")
        unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        try:
            plain = unpack.decompress(bytes(answer.body), self._limit + 1)
        except zlib.error as error:
            raise ValueError("the answer is compressed in a way that cannot be read") from error
        if len(plain) > self._limit or not unpack.eof:
            raise ValueError("the answer is too large or cut off")
        return plain


def _message(parts: SplitResult, headers: Mapping[str, str]) -> bytes:
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("the address is not valid")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname.encode("idna").decode()
    authority = f"{host}:{parts.port}" if parts.port else host
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"GET {target} HTTP/1.1",
        f"host: {authority}",
        "accept: application/json",
        "accept-encoding: identity",
        "connection: close",
        "user-agent: inference-router",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if " " in target or any(ord(character) < 0x20 or ord(character) == 0x7F for line in lines for character in line):
        raise ValueError("the address or a header holds characters that cannot be sent")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
