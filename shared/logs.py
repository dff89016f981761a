"""One JSON object per log line, on standard error, off the event loop, without secrets."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

__all__ = ["JSONFormatter", "logging_to_stderr", "redact"]

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
    """Formats a record as JSON; `extra={"fields": {...}}` joins the object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        fields = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(fields, ensure_ascii=False, default=str))


class _ListenedHandler(logging.handlers.QueueHandler):
    """Hands the record itself over: it is formatted on the listener's thread."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Log to standard error while the context lasts; formatting and I/O happen on a thread."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter())
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
    try:
        yield
    finally:
        listener.stop()
        root.removeHandler(front)
        root.setLevel(old_level)
