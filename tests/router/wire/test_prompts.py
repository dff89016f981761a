"""Prompts without turns: how long they are, and what is none."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.prompts import Prompts, measure
from shared.errors import InvalidRequest

IDS = st.lists(st.integers(0, 200_000), min_size=1, max_size=20)


def measured(value: Any, *, objects: bool = False) -> Prompts:
    """What a value comes to."""
    return measure(msgspec.Raw(json.dumps(value, ensure_ascii=False).encode()), "p", objects=objects)


@given(st.lists(st.one_of(st.text(), IDS), min_size=1, max_size=10))
def test_measure_adds_up_and_finds_the_longest(items: list[Any]) -> None:
    """The whole is the sum of the parts, and the longest is one of them."""
    each = [measured(item).text_bytes for item in items]
    assert measured(items) == Prompts(sum(each), max(each), len(items))


@given(st.text())
def test_measure_knows_a_single_text(text: str) -> None:
    """One text, as it is written in JSON."""
    length = len(json.dumps(text, ensure_ascii=False).encode()) - 2
    assert measured(text) == Prompts(length, length, 1, single=True)


def test_measure_counts_a_token_as_the_text_it_stands_for() -> None:
    """A token id is about four bytes of text; an image is not text at all."""
    assert measured([1, 22, 333]) == Prompts(12, 12, 1)
    assert measured([{"image": "x" * 1000}, "abc"], objects=True) == Prompts(3, 3, 2)


@pytest.mark.parametrize(
    ("value", "param"),
    [(None, "p"), (1, "p"), ({}, "p"), ([], "p"), ([None], "p[0]"), (["a", 1], "p[1]"), ([[1], [1.5]], "p[1][0]")],
)
def test_measure_names_what_is_no_prompt(value: Any, param: str) -> None:
    """The error names the element."""
    with pytest.raises(InvalidRequest) as caught:
        measured(value)
    assert caught.value.param == param
