"""Discretion: what a backend says of a failure, without the router's keys and the backend's address."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from router.interfaces import Secrets
from router.types import Backend
from shared.errors import ServiceError, UpstreamRejected
from shared.logs import redact

__all__ = ["Discretion"]

_SHORT = 6
"""A shorter key would be found in ordinary words."""
_INNER = re.compile(
    r"(?:https?://)?(?<![\w.-])(?:"
    r"(?:10(?:\.\d{1,3}){3}|192\.168(?:\.\d{1,3}){2}|172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2})(?![\w.]*\d)"
    r"|(?:[\w-]+\.){2,}(?:svc|pod)(?:\.[\w-]+)*"
    r")(?::\d+)?"
)
"""Addresses and names that hold within a network or a Kubernetes cluster only."""


class Discretion:
    """Takes out of errors what no caller may see.

    Args:
        backends: Returns the backends of the snapshot in force, the same object for the same snapshot.
        secrets: Where the keys that backends name are found.
    """

    def __init__(self, backends: Callable[[], Mapping[str, Backend]], secrets: Secrets) -> None:
        self._backends = backends
        self._secrets = secrets
        self._known: Mapping[str, Backend] | None = None
        self._words: list[tuple[str, str]] = []

    def hush(self, error: ServiceError) -> None:
        """Clean an error's words in place; a failing request can afford the search."""
        hidden = self._hidden()
        error.message = _cleaned(error.message, hidden)
        error.type = _cleaned(error.type, hidden)
        error.code = None if error.code is None else _cleaned(error.code, hidden)
        error.param = None if error.param is None else _cleaned(error.param, hidden)
        error.extra_headers = {name: _cleaned(value, hidden) for name, value in error.extra_headers.items()}
        if isinstance(error, UpstreamRejected):
            # A front may tell more of the backend's error object than its words.
            error.error = _cleaned_within(error.error, hidden)

    def _hidden(self) -> list[tuple[str, str]]:
        """Return what must not be told and what is told instead, the longest first."""
        backends = self._backends()
        if backends is self._known:
            return self._words
        found: dict[str, str] = {}
        for backend in backends.values():
            secret = None if backend.api_key_env is None else self._secrets(backend.api_key_env)
            if secret and len(secret) >= _SHORT:
                found[secret] = "[redacted]"
            place = f"[{backend.name}]"
            address = urlsplit(backend.base_url)
            found |= {backend.base_url: place, f"{address.scheme}://{address.netloc}": place, address.netloc: place}
            host = address.hostname or ""
            if len(host) >= _SHORT and ("." in host or ":" in host):
                found.setdefault(host, place)  # many name the port elsewhere, or not at all; a bare name may be a word
        told = ((text, instead) for text, instead in found.items() if text)
        self._known, self._words = backends, sorted(told, key=lambda pair: -len(pair[0]))
        return self._words


def _cleaned(text: str, hidden: list[tuple[str, str]]) -> str:
    for secret, instead in hidden:
        text = text.replace(secret, instead)
    return _INNER.sub("[internal]", redact(text))


def _cleaned_within(value: Any, hidden: list[tuple[str, str]]) -> Any:
    """Return a JSON value with every text in it cleaned, the names of its fields too."""
    if isinstance(value, str):
        return _cleaned(value, hidden)
    if isinstance(value, list):
        return [_cleaned_within(item, hidden) for item in value]
    if isinstance(value, dict):
        return {_cleaned(name, hidden): _cleaned_within(item, hidden) for name, item in value.items()}
    return value
