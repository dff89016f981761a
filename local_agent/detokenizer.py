"""From token bytes to text: whole code points only, and no stop string ever shown. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

__all__ = ["Detokenizer", "StopMatcher"]


class StopMatcher:
    """Cuts a text at the first stop string, under any split of that text.

    The stop string that is complete first wins; among those complete at the same character, the
    longest. Text that may still become a stop string is held back.

    Args:
        stops: The stop strings; empty ones are ignored.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended the text."""

    def push(self, text: str) -> str:
        """Return what of the text so far may be shown and has not been."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        self._held = ""
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            return text[:at]
        keep = max(_overlap(text, stop) for stop in self._stops)
        if keep:
            self._held = text[-keep:]
            text = text[:-keep]
        return text

    def flush(self) -> str:
        """Return what was held back; the text has ended without a stop string."""
        held, self._held = self._held, ""
        return "" if self.matched is not None else held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a proper beginning of `stop`."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


class Detokenizer:
    """Turns the bytes of successive tokens into showable text.

    Bytes that are no UTF-8 become U+FFFD; an unfinished code point at the very end is dropped, so
    that a continuation can produce it whole.

    Args:
        stops: Strings that end the text; they are not part of it.
        strip_leading_space: Drop one space at the very beginning (SentencePiece vocabularies mark
            the first word of an answer with one).
        owed: Bytes that the tokens begin with and that are not to be shown: the caller has them.
    """

    def __init__(self, stops: Sequence[str] = (), *, strip_leading_space: bool = False, owed: bytes = b"") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._matcher = StopMatcher(stops)
        self._strip = strip_leading_space
        self.owed = owed
        """What the next tokens must still begin with."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been met."""
        return self._matcher.matched is not None

    def push(self, token: bytes) -> str:
        """Return the text that this token makes showable."""
        if self.owed:
            known = min(len(self.owed), len(token))
            self.owed, token = self.owed[known:], token[known:]
        text = self._decoder.decode(token)
        if self._strip and text:
            self._strip = False
            text = text.removeprefix(" ")
        return self._matcher.push(text)

    def flush(self) -> str:
        """Return what was held back; call once, when no token follows."""
        return self._matcher.flush()
