"""Small real models for tests of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Leave the other core to the others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_llama(tmp_path: Path) -> tuple[Path, Any]:
    """A tiny random Llama whose output layer is its embedding, on disk and in memory."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_theta=5000.0)).eval()
    model.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama", model


@pytest.fixture
def tiny_mistral(tmp_path: Path) -> tuple[Path, Any]:
    """A tiny random Mistral with an output layer of its own, on disk and in memory."""
    torch.manual_seed(1)
    model = MistralForCausalLM(MistralConfig(**SHAPE, tie_word_embeddings=False, sliding_window=None)).eval()
    model.save_pretrained(tmp_path / "mistral")
    return tmp_path / "mistral", model
