"""What a caller may ask of the router: `x-router-*` headers, or the body's `router` object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from router.types import Wishes
from shared.errors import InvalidRequest

__all__ = ["parse_wishes"]


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return value

    return parse


def _text(value: str) -> str:
    if not 0 < len(value) <= 256:
        raise ValueError("expected 1 to 256 characters")
    return value


def _milliseconds(value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) <= 86_400_000:
        raise ValueError("expected a whole number of milliseconds from 1 to 86400000")
    return int(value)


def _dollars(value: str) -> Decimal:
    try:
        amount = Decimal(value)
    except InvalidOperation:
        amount = Decimal(-1)
    # A tiny amount written out in a message would fill the memory: 1e-999999999.
    if not amount.is_finite() or amount < 0 or (amount and not -18 <= amount.adjusted() <= 12):
        raise ValueError("expected an amount in USD, such as 0.05")
    return amount


_PARSERS: dict[str, Callable[[str], Any]] = {
    "policy": _text,
    "privacy": _one_of("local", "cluster", "any"),
    "max_cost_usd": _dollars,
    "deadline_ms": _milliseconds,
    "first_token_ms": _milliseconds,
    "fallback": _one_of("on", "off"),
    "cache": _one_of("on", "off", "refresh"),
    "session": _text,
}


_HEADERS = tuple(("x-router-" + name.replace("_", "-"), name) for name in _PARSERS)
_NONE = Wishes()


def _plain(value: Any) -> str:
    """Return a JSON value of the body in the spelling of a header; one that has none is left empty."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if isinstance(value, (str, int, float)) else ""


def parse_wishes(headers: Mapping[str, str], body: Mapping[str, Any] | None) -> Wishes:
    """Return the wishes; a header wins over the same wish in the body.

    Args:
        headers: The client's headers, names in lower case.
        body: The body's `router` object; keys as in the headers, without the prefix.

    Raises:
        InvalidRequest: A wish has a value it cannot have, or the body names an unknown one.
    """
    found: dict[str, tuple[str, str]] = {}
    for key, value in body.items() if body else ():
        name = key.lower().removeprefix("x-router-").replace("-", "_")
        if name not in _PARSERS:
            known = ", ".join(_PARSERS)
            raise InvalidRequest(f"Unknown wish 'router.{key}'; known are {known}.", param=f"router.{key}")
        if value is not None:
            found[name] = (_plain(value), f"router.{key}")
    for header, name in _HEADERS:
        if header in headers:
            found[name] = (headers[header].strip(), header)
    if not found:
        return _NONE
    values: dict[str, Any] = {}
    for name, (text, param) in found.items():
        try:
            values[name] = _PARSERS[name](text)
        except ValueError as error:
            raise InvalidRequest(f"Invalid value for '{param}': {error}.", param=param) from error
    if "fallback" in values:
        values["fallback"] = values["fallback"] == "on"
    return Wishes(**values)
