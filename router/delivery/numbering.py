"""Numbers for the events of a stream, so that a client can say how far it got; pure."""

from __future__ import annotations

import hashlib
import re

from shared.errors import InvalidRequest
from shared.sse import SSEReader

__all__ = ["Numbering", "Place", "between", "place_of", "tag_of"]

Place = tuple[str, int]
"""Which answer, and how many of its events the client has."""

_ID = re.compile(r"([0-9a-f]{16}):([0-9]{1,9})")
_COMMENTS = re.compile(rb"(?::[^\r\n]*(?:\r\n|\r|\n))+(?:\r\n|\r|\n)*")


def tag_of(request_id: str) -> str:
    """Return what marks the events of the answer to one request, and of no other."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:16]


def place_of(last_event_id: str) -> Place:
    """Return the place that a client names in `Last-Event-ID`.

    Raises:
        InvalidRequest: No event of ours has such an id.
    """
    match = _ID.fullmatch(last_event_id.strip())
    if match is None:
        raise InvalidRequest("No event has such an id.", param="Last-Event-ID")
    return match[1], int(match[2])


def between(event: bytes) -> bytes:
    """Return an event in the form in which it can stand between numbered ones.

    Readers that remember the last id (openai-python is one) take a comment with an empty line of its own for an
    event without data, and fail to read that. A comment line in front of the next event says the same.
    """
    return event.rstrip(b"\r\n") + b"\n" if _COMMENTS.fullmatch(event) else event


class Numbering:
    """Gives the events of one stream their ids.

    The id is the event's last line, so that it wins over one of the backend's; all other bytes stay.

    Args:
        tag: Marks the answer; see `tag_of`.
    """

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._count = 0
        self._comments = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events of which `data` consists, numbered in order; what is none goes along as it is."""
        reader = SSEReader()
        pieces = []
        for event in reader.feed(data):
            if event.data is None and _COMMENTS.fullmatch(event.raw):
                self._comments += between(event.raw)
                continue
            pieces.append(self._numbered(event.raw))
        if rest := reader.close():
            pieces.append(self._numbered(rest) if rest.endswith((b"\n", b"\r")) else self._flushed() + rest)
        return pieces

    def _numbered(self, raw: bytes) -> bytes:
        self._count += 1
        end = b"\r\n" if raw.endswith(b"\r\n") else raw[-1:]
        return b"%b%b%bid: %b:%d%b%b" % (
            self._flushed(),
            raw.rstrip(b"\r\n"),
            end,
            self._tag.encode(),
            self._count,
            end,
            end,
        )

    def _flushed(self) -> bytes:
        comments, self._comments = self._comments, b""
        return comments
