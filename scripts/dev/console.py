"""What the user sees: lines with the name of the process that they come from."""

from __future__ import annotations

import json
from typing import TextIO

__all__ = ["Console", "readable"]

_COLOURS = {"valkey": "35", "agent": "36", "router": "32", "dev": "1"}
_WIDTH = 6


class Console:
    """Prints prefixed lines; in colour on a terminal only.

    Args:
        stream: Where to print.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = stream.isatty()

    def say(self, text: str) -> None:
        """Print a message of `make dev` itself; may have several lines."""
        for line in text.splitlines():
            self.line("dev", line)

    def line(self, name: str, text: str) -> None:
        """Print one line under the name of a process."""
        prefix = f"{name:<{_WIDTH}} │"
        if self._colour:
            prefix = f"\x1b[{_COLOURS.get(name, '0')}m{prefix}\x1b[0m"
        self.block(f"{prefix} {text}")

    def block(self, text: str) -> None:
        """Print text as it is."""
        try:
            print(text, file=self._stream, flush=True)
        except (BrokenPipeError, UnicodeEncodeError, ValueError):
            # A closed or narrow terminal must not keep the children from being stopped.
            return


def readable(line: str) -> str:
    """Return a JSON log line as one for people; any other line as it is."""
    if not line.startswith("{"):
        return line
    try:
        fields = json.loads(line)
        words = [fields.pop("level"), fields.pop("message")]
    except (ValueError, KeyError, AttributeError):
        return line
    for name in ("time", "logger"):
        fields.pop(name, None)
    exception = fields.pop("exception", None)
    words += [f"{name}={value}" for name, value in fields.items() if value is not None]
    text = " ".join(str(word) for word in words)
    return text if exception is None else f"{text}\n{exception}"
