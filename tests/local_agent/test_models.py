"""Tests of the model catalogue."""

from __future__ import annotations

import pytest

from local_agent.models import CATALOGUE, DEFAULT_MODEL, EMBEDDED_MODEL, GIB, UnknownModel, choose


@pytest.mark.parametrize("device", ["mps", "cuda"])
def test_choose_takes_the_default_where_it_fits(device: str) -> None:
    """The requested model is served on a device with enough memory, without a remark."""
    choice = choose(DEFAULT_MODEL, device, 64 * GIB)
    assert (choice.spec.id, choice.fallback_reason) == (DEFAULT_MODEL, None)


@pytest.mark.parametrize(("device", "memory", "word"), [("cpu", 64 * GIB, "cpu"), ("mps", 2 * GIB, "2.0 GiB")])
def test_choose_falls_back_and_says_why(device: str, memory: int, word: str) -> None:
    """Without a fitting device the embedded model is served and the reason names what is missing."""
    choice = choose(DEFAULT_MODEL, device, memory)
    assert choice.spec.id == EMBEDDED_MODEL
    assert choice.fallback_reason is not None
    assert word in choice.fallback_reason


def test_choose_embedded_is_no_fallback() -> None:
    """Asking for the embedded model by name is served without a warning."""
    assert choose(EMBEDDED_MODEL, "cpu", GIB).fallback_reason is None


def test_choose_unknown_lists_the_names() -> None:
    """A name that does not exist is answered with those that do."""
    with pytest.raises(UnknownModel) as caught:
        choose("gpt-5", "cpu", GIB)
    for spec in CATALOGUE:
        assert spec.id in str(caught.value)
