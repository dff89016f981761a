"""What a caller may ask of the router, in headers or in the body."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import Wishes
from router.wire.wishes import parse_wishes
from shared.errors import InvalidRequest
from tests.support.properties import json_values, text

WHOLE = Wishes(
    policy="auto",
    privacy="local",
    max_cost_usd=Decimal("0.05"),
    deadline_ms=1500,
    first_token_ms=300,
    fallback=False,
    cache="refresh",
    session="s-1",
)
SPELLED = {
    "policy": "auto",
    "privacy": "local",
    "max_cost_usd": "0.05",
    "deadline_ms": "1500",
    "first_token_ms": "300",
    "fallback": "off",
    "cache": "refresh",
    "session": "s-1",
}


def header_name(name: str) -> str:
    """The header of a wish."""
    return "x-router-" + name.replace("_", "-")


def test_wishes_are_none_without_any() -> None:
    """Nothing wished is the default."""
    assert parse_wishes({"accept": "*/*"}, None) == Wishes() == parse_wishes({}, {})


def test_wishes_come_from_headers() -> None:
    """Every wish has its header."""
    assert parse_wishes({header_name(name): f" {value} " for name, value in SPELLED.items()}, None) == WHOLE


@pytest.mark.parametrize("spell", [str, header_name, lambda name: name.replace("_", "-"), str.upper])
def test_wishes_come_from_the_body(spell: Any) -> None:
    """Every wish has its key in the `router` object, in the header's spelling or in snake case, with JSON's types."""
    body = {**SPELLED, "max_cost_usd": 0.05, "deadline_ms": 1500, "first_token_ms": 300, "fallback": False}
    assert parse_wishes({}, {spell(name): value for name, value in body.items()}) == WHOLE


def test_wishes_of_a_header_win_over_the_body() -> None:
    """A header is closer to whoever operates the client."""
    assert parse_wishes({"x-router-privacy": "local"}, {"privacy": "any", "session": "s"}).privacy == "local"


def test_wishes_that_are_null_are_none() -> None:
    """A null in the body wishes nothing."""
    assert parse_wishes({}, dict.fromkeys(SPELLED)) == Wishes()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("privacy", "secret"),
        ("privacy", ""),
        ("privacy", "LOCAL"),
        ("policy", ""),
        ("policy", "x" * 257),
        ("policy", ["auto"]),
        ("session", {"a": 1}),
        ("max_cost_usd", "free"),
        ("max_cost_usd", "-1"),
        ("max_cost_usd", "NaN"),
        ("max_cost_usd", "Infinity"),
        ("max_cost_usd", "1e-999999999"),
        ("max_cost_usd", "1e999999999"),
        ("deadline_ms", "0"),
        ("deadline_ms", "-5"),
        ("deadline_ms", "1.5"),
        ("deadline_ms", "86400001"),
        ("deadline_ms", "9" * 5000),
        ("first_token_ms", "soon"),
        ("first_token_ms", True),
        ("fallback", "maybe"),
        ("fallback", 1),
        ("cache", "always"),
        ("cache", []),
    ],
)
def test_wishes_refuse_what_they_cannot_mean(name: str, value: Any) -> None:
    """A wish with a wrong value is a 400 that names it, wherever it stands."""
    with pytest.raises(InvalidRequest) as caught:
        parse_wishes({}, {name: value})
    assert caught.value.param == f"router.{name}"
    if isinstance(value, str):
        with pytest.raises(InvalidRequest) as caught:
            parse_wishes({header_name(name): value}, None)
        assert caught.value.param == header_name(name)


def test_wishes_refuse_unknown_names_in_the_body() -> None:
    """A misspelt wish is not silently ignored."""
    with pytest.raises(InvalidRequest, match="known are policy, privacy") as caught:
        parse_wishes({}, {"privacy_level": "local"})
    assert caught.value.param == "router.privacy_level"


@given(st.dictionaries(st.sampled_from([*SPELLED, "x-router-cache"]), json_values | text, max_size=4))
def test_wishes_raise_nothing_but_invalid_request(body: dict[str, Any]) -> None:
    """Whatever the body holds is a wish or a 400; a cost is one that can be written out."""
    with suppress(InvalidRequest):
        assert len(f"{parse_wishes({}, body).max_cost_usd or 0:f}") < 100
