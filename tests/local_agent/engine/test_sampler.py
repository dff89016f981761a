"""Tests of the sampler."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from local_agent.engine.sampler import Sampler
from local_agent.types import Sampling

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])


def draws(sampling: Sampling, count: int = 200, logits: torch.Tensor = LOGITS) -> list[int]:
    """Draw from the same logits, each time with a fresh sampler so that penalties do not interfere."""
    sampler = Sampler(sampling)
    return [sampler.sample(logits) for _ in range(count)]


def test_sampler_temperature_zero_is_greedy() -> None:
    """Temperature 0 takes the most likely token, always."""
    assert set(draws(Sampling(temperature=0.0))) == {0}


def test_sampler_seed_repeats() -> None:
    """The same seed gives the same tokens, another seed others."""
    first, second = Sampling(temperature=2.0, seed=7), Sampling(temperature=2.0, seed=8)
    assert draws(first) == draws(first)
    assert draws(first) != draws(second)


def test_sampler_without_a_seed_varies() -> None:
    """Two unseeded requests are not copies of each other."""
    assert draws(Sampling(temperature=2.0)) != draws(Sampling(temperature=2.0))


def test_sampler_top_k_limits_the_choice() -> None:
    """Only the k most likely tokens are drawn; more than there are means all."""
    assert set(draws(Sampling(temperature=2.0, top_k=2, seed=1))) == {0, 1}
    assert set(draws(Sampling(temperature=9.0, top_k=99, seed=1), 500)) == {0, 1, 2, 3, 4}


def test_sampler_top_p_keeps_the_smallest_sufficient_set() -> None:
    """Tokens beyond the first set that reaches p are never drawn; the first always may be."""
    # softmax(LOGITS) begins 0.55, 0.20, 0.12: 0.6 needs two tokens.
    assert set(draws(Sampling(temperature=1.0, top_p=0.6, seed=1))) == {0, 1}
    assert set(draws(Sampling(temperature=1.0, top_p=1e-9, seed=1))) == {0}


def test_sampler_penalties_push_repeats_down() -> None:
    """With a strong presence penalty greedy sampling walks through the vocabulary."""
    assert draws(Sampling(temperature=0.0, presence_penalty=2.0), 3) == [0, 1, 2]
    assert draws(Sampling(temperature=0.0, frequency_penalty=2.0), 4)[:2] == [0, 1]


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 2), st.floats(0.001, 1), st.integers(0, 10), st.integers(0, 2**62))
def test_sampler_always_returns_a_token(temperature: float, top_p: float, top_k: int, seed: int) -> None:
    """Any valid parameters give a token of the vocabulary, also for extreme logits."""
    sampler = Sampler(Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed))
    for logits in (LOGITS, LOGITS * 1e4, torch.zeros(5)):
        assert 0 <= sampler.sample(logits) < 5
