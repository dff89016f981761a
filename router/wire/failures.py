"""What a backend's failure means: one translation for every dialect with an `error` object."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from shared.errors import (
    ContextLengthExceeded,
    ServiceError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)

__all__ = ["error_event", "failure", "rejected", "retry_after"]

_OUR_ACCOUNT = (401, 402, 403)
_TOO_LONG = ("maximum context length", "context window", "max_model_len", "context length")


def failure(status: int, body: bytes, headers: Mapping[str, str], *, quoted: bool = False) -> ServiceError:
    """Return the error for a reply with a 4xx or 5xx status.

    Nothing of a body that is not an OpenAI-style error reaches the caller.

    Args:
        status: The reply's status.
        body: The reply's body.
        headers: The reply's headers.
        quoted: Whether a 5xx may be told in the backend's own words, as those of our agent may.
    """
    detail = _detail(body)
    if status in _OUR_ACCOUNT:
        return UpstreamUnauthorized(f"The backend refused the router's credentials ({status}).")
    if status == 408:
        return UpstreamTimeout("The backend gave up waiting (408).")
    wait = retry_after(headers)
    if status == 429:
        return UpstreamRateLimited("The backend's rate limit is reached.", retry_after=wait)
    if 400 <= status < 500:
        return rejected(status, detail)
    words = str(detail.get("message") or "") if quoted else ""
    return UpstreamUnavailable(words[:500] or f"The backend failed with status {status}.", retry_after=wait)


def _detail(body: bytes) -> dict[str, Any]:
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(parsed, dict):
        return {}
    detail = parsed.get("error", parsed)
    if isinstance(detail, str):
        return {"message": detail}
    return detail if isinstance(detail, dict) else {}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` asks for (a number or an HTTP date), or None."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def error_event(raw: msgspec.Raw | bytes | None) -> ServiceError:
    """Return the error that a backend sent with status 200, in a body or in a stream."""
    try:
        detail: Any = msgspec.json.decode(bytes(raw)) if raw is not None else None
    except msgspec.DecodeError:
        detail = None
    if isinstance(detail, str):
        detail = {"message": detail}
    if not isinstance(detail, dict):
        return UpstreamUnavailable("The backend's answer holds neither choices nor an error.")
    code = detail.get("code")
    status = code if isinstance(code, int) else detail.get("status")
    if isinstance(status, int) and 400 <= status < 500 and status not in (*_OUR_ACCOUNT, 408, 429):
        return rejected(status, detail)
    return UpstreamUnavailable(f"The backend reported an error: {str(detail.get('message'))[:500]}")


def rejected(status: int, detail: dict[str, Any]) -> ServiceError:
    """Return the error for a backend's 4xx about the request itself."""
    message = str(detail.get("message") or "")
    lowered = message.lower()
    too_long = (
        detail.get("code") == "context_length_exceeded"
        or detail.get("param") == "input_tokens"
        or any(phrase in lowered for phrase in _TOO_LONG)
    )
    if too_long and status in (400, 413, 422):
        return ContextLengthExceeded(message or "The prompt is too long for the model.", param="messages")
    return UpstreamRejected(status, detail)
