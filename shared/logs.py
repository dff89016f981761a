"""One JSON object per log line, on standard error, off the event loop, without secrets."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import queue
import re
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

import msgspec

__all__ = ["AccessLog", "Fields", "JSONFormatter", "logging_to_stderr", "redact"]

Fields = Mapping[str, object]
"""What a log line says beyond its message: names and JSON values."""

_NOTHING: Fields = MappingProxyType({})

# Bearer tokens, our own keys and the shapes of provider keys; the last line of defence, not the first.
_SECRETS = re.compile(
    r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]{8,}"
    # In a JSON string a key at the start of a line follows the letter of `\n`, which is no word boundary.
    r"|(?:\b|(?<=\\[nrt]))(?:sk|rk|gsk|xai|pplx|nvapi|hf|fw|csk)[-_][A-Za-z0-9_-]{12,}"
    r"|(?:\b|(?<=\\[nrt]))AIza[A-Za-z0-9_-]{20,}"
    r"|(?<=://)[^/\s\"@]+(?=@)"
)


def redact(text: str) -> str:
    """Return `text` with everything that looks like a credential replaced."""
    return _SECRETS.sub(lambda match: (match.group(1) or "") + "[redacted]", text)


class JSONFormatter(logging.Formatter):
    """Formats a record as JSON; `extra={"fields": {...}}` joins the object.

    Args:
        common: Fields of every line.
    """

    def __init__(self, common: Fields = _NOTHING) -> None:
        super().__init__()
        self._common = common

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        fields = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._common,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(fields, ensure_ascii=False, default=str))


# What only this program writes; every other text may be a client's and may hold a credential.
_OURS = frozenset({"request_id", "deployment", "cost_usd", "cache", "caller"})
_PLAIN = (int, float, bool, type(None))
_AT_ONCE = 64
_REMEMBERED = 4096
_LONGEST_REMEMBERED = 256
_encode = msgspec.json.Encoder(enc_hook=str).encode


class AccessLog:
    """Takes the fields of a line and returns at once; a thread does the rest.

    A line is what `JSONFormatter` would write of a record `request` at level info. Where whoever
    reads the lines is stuck, further lines are dropped rather than kept without end, and their number is told
    once there is room again.

    Args:
        write: Writes bytes, whole lines of them; may block.
        logger: The name that lines give in `logger`.
        interval: Seconds that a line waits for others to share its write.
        capacity: Lines kept in memory.
        block: The most bytes given to `write` at once, but for a longer line.
        enabled: Whether lines are wanted at all.
        common: Fields of every line.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        logger: str,
        *,
        interval: float = 0.1,
        capacity: int = 20_000,
        block: int = 65_536,
        enabled: bool = True,
        common: Fields = _NOTHING,
    ) -> None:
        self._write_out = write
        self._logger = logger
        self._common = common
        self._interval = interval
        self._capacity = capacity
        self._block = block
        self._lines: deque[tuple[float, Fields]] = deque()
        self._refused = 0
        self._failed = 0
        self._told = 0
        self._clean: dict[str, str] = {}
        self._second = -1
        self._moment = ""
        self._asleep = True
        self._open = enabled
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)

    def write(self, fields: Fields) -> None:
        """Take one line's fields, which must not be changed afterwards. Never blocks, never raises."""
        if not self._open:
            return
        lines = self._lines
        if len(lines) >= self._capacity:
            self._refused += 1
            return
        lines.append((time.time(), fields))
        if self._asleep:
            self._rouse()

    def _rouse(self) -> None:
        self._asleep = False
        self._wake.set()
        with self._starting:
            if self._thread.ident is None:
                self._thread.start()

    def close(self, timeout: float = 5.0) -> bool:
        """Write what is left and stop.

        Returns:
            False where the reader of the lines was stuck for `timeout` seconds; the rest is lost.
        """
        self._open = False
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            self._asleep = True
            # A line may have come between the last look and the flag that asks for a call.
            if not self._lines:
                self._wake.wait()
            self._asleep = False
            self._wake.clear()
            self._stop.wait(self._interval)
            self._drain()
        self._drain()

    def _drain(self) -> None:
        while self._lines:
            # A few at a time: the event loop needs the interpreter as well, and `write` lets go of it.
            lines = [self._line(*self._lines.popleft()) for _ in range(min(_AT_ONCE, len(self._lines)))]
            dropped = self._refused + self._failed - self._told
            if dropped:
                self._told += dropped
                lines.append(self._line(time.time(), {"dropped": dropped}, "warning", "access lines were dropped"))
            self._put(lines)

    def _put(self, lines: list[bytes]) -> None:
        """Write lines in blocks; what cannot be written counts as dropped."""
        block: list[bytes] = []
        size = 0
        for line in lines:
            if block and size + len(line) > self._block:
                self._put_block(block)
                block, size = [], 0
            block.append(line)
            size += len(line)
        if block:
            self._put_block(block)

    def _put_block(self, block: list[bytes]) -> None:
        try:
            self._write_out(b"".join(block))
        except (OSError, ValueError):  # the pipe is broken, the disk is full, the stream is closed
            self._failed += len(block)

    def _line(self, now: float, fields: Fields, level: str = "info", message: str = "request") -> bytes:
        line: dict[str, Any] = {"time": self._when(now), "level": level, "logger": self._logger, "message": message}
        line.update(self._common)
        nested = False
        for key, value in fields.items():
            if isinstance(value, str):
                line[key] = value if key in _OURS else self._redacted(value)
            else:
                line[key] = value
                nested = nested or not isinstance(value, _PLAIN)
        try:
            text = _encode(line)
        except (UnicodeEncodeError, TypeError, ValueError):  # half a surrogate, say, or a key that is no text
            text = json.dumps(line, default=str, skipkeys=True).encode()
        if nested:
            text = redact(text.decode()).encode()
        return text + b"\n"

    def _redacted(self, text: str) -> str:
        """Return `text` without credentials; paths and models come again and again, so it is remembered."""
        clean = self._clean.get(text)
        if clean is None:
            if len(self._clean) >= _REMEMBERED:
                self._clean.clear()
            clean = redact(text)
            if len(text) <= _LONGEST_REMEMBERED:
                self._clean[text] = clean
        return clean

    def _when(self, now: float) -> str:
        """Return a moment (seconds since the epoch) in ISO 8601, to the millisecond."""
        milliseconds = int(now * 1000)
        second = milliseconds // 1000
        if second != self._second:
            self._second = second
            self._moment = datetime.fromtimestamp(second, timezone.utc).isoformat()[:19]
        return f"{self._moment}.{milliseconds - second * 1000:03d}+00:00"


class _ListenedHandler(logging.handlers.QueueHandler):
    """Hands the record itself over: it is formatted on the listener's thread."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


@contextmanager
def logging_to_stderr(level: str, access: str = "access", common: Fields = _NOTHING) -> Iterator[AccessLog]:
    """Log to standard error while the context lasts; formatting and I/O happen on threads.

    Args:
        level: The lowest level that is written.
        access: The logger's name in access lines.
        common: Fields of every line, such as which of several processes wrote it.

    Yields:
        Where access lines go; it takes none where the level is above info.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter(common))
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    front = _ListenedHandler(records)
    listener = logging.handlers.QueueListener(records, handler)
    root = logging.getLogger()
    old_level = root.level
    root.addHandler(front)
    root.setLevel(level.upper())
    for chatty in ("alembic", "httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    listener.start()
    wanted = logging.getLogger(access).isEnabledFor(logging.INFO)
    lines = AccessLog(_write_stderr, access, block=_stderr_block(), enabled=wanted, common=common)
    try:
        yield lines
    finally:
        lines.close()
        listener.stop()
        root.removeHandler(front)
        root.setLevel(old_level)


def _write_stderr(data: bytes) -> None:
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()


def _stderr_block() -> int:
    """Return how much is written at once: processes that share a pipe must not cut each other's lines."""
    try:
        regular = stat.S_ISREG(os.fstat(sys.stderr.fileno()).st_mode)
    except (OSError, ValueError):  # a stream without a descriptor is nobody else's
        regular = True
    return 65_536 if regular else select.PIPE_BUF
