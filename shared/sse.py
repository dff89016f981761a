"""Server-sent events: reading under any byte split, and writing.

Follows the event-stream grammar of the WHATWG HTML standard (§9.2.5/6): lines end in LF, CRLF or
CR, an empty line ends an event, a line that begins with a colon is a comment.
"""

from __future__ import annotations

import re

from msgspec import Struct

__all__ = ["DONE", "EventTooLarge", "SSEEvent", "SSEReader", "encode_event"]

DONE = b"data: [DONE]\n\n"
_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\r\n\n|\n\r\n|\r\n\r(?!\n)|\n\r(?!\n)")
_LINE = re.compile(rb"\r\n|\n|\r")


class EventTooLarge(ValueError):
    """One event exceeds the reader's limit."""


class SSEEvent(Struct, frozen=True):
    """One event: the bytes as they came (`raw`, with the empty line) and the joined `data`.

    `data` is None for an event of comments only.
    """

    raw: bytes
    data: bytes | None
    event: str | None = None


def encode_event(data: bytes, event: str | None = None) -> bytes:
    """Return one event; every line of `data` gets its own `data:` field."""
    prefix = b"" if event is None else b"event: " + event.encode() + b"\n"
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(_LINE.split(data))
    return prefix + b"data: " + data + b"\n\n"


def _parse(raw: bytes) -> SSEEvent:
    if raw.startswith(b"data: ") and raw.endswith(b"\n\n") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
        return SSEEvent(raw, raw[6:-2])
    data: list[bytes] = []
    event: str | None = None
    for line in _LINE.split(raw):
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value.decode("utf-8", "replace")
    return SSEEvent(raw, b"\n".join(data) if data else None, event)


class SSEReader:
    """Turns a byte stream into events; holds at most one unfinished event.

    Args:
        limit: The largest event accepted, in bytes.
    """

    def __init__(self, limit: int = 16 * 1024 * 1024) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._limit = limit
        self._started = False

    def feed(self, data: bytes) -> list[SSEEvent]:
        """Return the events that `data` completes.

        Raises:
            EventTooLarge: An event, finished or not, exceeds the limit; the stream is lost.
        """
        buffer = self._buffer
        # Nearly always one whole event of one line comes at a time.
        if (
            not buffer
            and self._started
            and data.find(b"\n") == len(data) - 2
            and data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and b"\r" not in data
            and len(data) <= self._limit
        ):
            return [SSEEvent(data, data[6:-2])]
        buffer += data
        if not self._started:
            if buffer.startswith(b"\xef\xbb\xbf"):
                del buffer[:3]
            elif b"\xef\xbb\xbf".startswith(bytes(buffer[:3])):
                return []
            self._started = True
        events: list[SSEEvent] = []
        start = 0
        position = self._scanned
        while match := _END.search(buffer, position):
            end = match.end()
            if end == len(buffer) and buffer[end - 1] == 0x0D:
                break  # a CR at the very end may be the first half of CRLF
            if end - start > self._limit:
                raise EventTooLarge(f"an event exceeds {self._limit} bytes")
            if end - start > len(match.group()):
                events.append(_parse(bytes(buffer[start:end])))
            start = position = end
        del buffer[:start]
        # The separator is at most four bytes long, so all but the last three bytes are settled.
        self._scanned = max(0, len(buffer) - 3)
        if len(buffer) > self._limit:
            raise EventTooLarge(f"an event exceeds {self._limit} bytes")
        return events

    def close(self) -> bytes:
        """Return what is left: bytes of an event whose empty line never came."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._scanned = 0
        return rest
