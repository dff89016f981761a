"""Tests of the forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from local_agent.engine.runner import Runner

CPU = torch.device("cpu")
PROMPT = [1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41]


def greedy(runner: Runner, sequence: int, chunk: int, tokens: int) -> list[int]:
    """Prefill in chunks, then decode greedily."""
    logits = None
    for start in range(0, len(PROMPT), chunk):
        part = PROMPT[start : start + chunk]
        logits = runner.prefill(sequence, part, last=start + chunk >= len(PROMPT))
    out = []
    for _ in range(tokens):
        assert logits is not None
        out.append(int(logits.argmax()))
        logits = runner.decode(sequence, out[-1])
    return out


@pytest.mark.parametrize("chunk", [1, 3, 11])
@pytest.mark.parametrize("explicit_mask", [False, True])
def test_runner_equals_generate(tiny_llama: tuple[Path, Any], chunk: int, explicit_mask: bool) -> None:
    """Greedy tokens are those of transformers' own `generate`, whatever the chunks and the mask (MPS needs its own)."""
    model = tiny_llama[1]
    ids = torch.tensor([PROMPT])
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0
    )[0, len(PROMPT) :]
    runner = Runner(model, CPU)
    runner._explicit_mask = explicit_mask
    assert greedy(runner, 1, chunk, 12) == expected.tolist()


def test_runner_keeps_sequences_apart(tiny_llama: tuple[Path, Any]) -> None:
    """Interleaved sequences do not see each other, and a freed one leaves nothing."""
    runner = Runner(tiny_llama[1], CPU)
    alone = greedy(runner, 1, 11, 6)
    runner.prefill(2, [7, 7, 7], last=True)
    first = runner.prefill(3, PROMPT, last=True)
    assert first is not None
    runner.decode(2, 7)
    runner.free(2)
    runner.free(1)
    assert int(first.argmax()) == alone[0]
    assert set(runner._caches) == {3}


def test_runner_gives_no_logits_in_mid_prompt(tiny_llama: tuple[Path, Any]) -> None:
    """Only the last chunk of a prompt has a next token."""
    assert Runner(tiny_llama[1], CPU).prefill(1, [1, 2], last=False) is None
