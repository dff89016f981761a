"""Forward passes: prefill chunks and decode steps over one cache per sequence."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from local_agent.engine.device import release_cached_memory, synchronize

__all__ = ["Runner"]


class Runner:
    """Owns the model and the sequences' keys and values.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        device: Where it lives.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._caches: dict[int, DynamicCache] = {}
        # transformers renamed the argument; its newest release for Python 3.10 has the old name.
        takes = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in takes else "past_key_values"
        # On MPS only a bool mask keeps attention on its fast kernel; elsewhere transformers' choice is best.
        self._explicit_mask = device.type == "mps"

    @torch.inference_mode()
    def prefill(self, sequence: int, tokens: Sequence[int], *, last: bool) -> torch.Tensor | None:
        """Append prompt tokens to a sequence; return the next token's logits if the prompt ends there."""
        logits = self._forward(sequence, tokens)
        if not last:
            synchronize(self._device)  # the logits of the last chunk are read at once, which waits by itself
            return None
        return logits

    @torch.inference_mode()
    def decode(self, sequence: int, token: int) -> torch.Tensor:
        """Append one token to a sequence and return the next token's logits."""
        return self._forward(sequence, (token,))

    def free(self, sequence: int) -> None:
        """Forget a sequence's keys and values."""
        self._caches.pop(sequence, None)

    def rest(self) -> None:
        """Give unused memory back; called when there has been nothing to do for a while."""
        release_cached_memory(self._device)

    def _forward(self, sequence: int, tokens: Sequence[int]) -> torch.Tensor:
        cache = self._caches.get(sequence)
        if cache is None:
            cache = self._caches[sequence] = DynamicCache(config=self._model.config)
        cached = cache.get_seq_length()
        rows = len(tokens)
        inputs = torch.tensor([list(tokens)], device=self._device)
        mask = None
        if self._explicit_mask and rows > 1:
            mask = torch.ones(1, 1, rows, cached + rows, dtype=torch.bool, device=self._device).tril(cached)
        kept = {self._cache_argument: cache}
        output = self._model(input_ids=inputs, attention_mask=mask, use_cache=True, logits_to_keep=1, **kept)
        logits: torch.Tensor = output.logits[0, -1]
        return logits
