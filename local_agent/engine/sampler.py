"""From logits to the next token, one sampler per sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from local_agent.types import Sampling

__all__ = ["Sampler"]

# Below this, dividing by the temperature overflows and the distribution is a single token anyway.
_GREEDY = 1e-5


class Sampler:
    """Chooses tokens; the same seed and logits give the same tokens on every device.

    Args:
        sampling: The request's parameters; temperature 0 is greedy.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator(device="cpu")
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        self._counts: dict[int, int] = {}

    def sample(self, logits: torch.Tensor, allowed: Sequence[int] | None = None) -> int:
        """Return the next token for one row of logits; `allowed` restricts the choice."""
        row = logits.detach().to("cpu", torch.float32)
        row = self._penalized(row)
        if allowed is not None:
            kept = torch.tensor(allowed)
            row = torch.full_like(row, -torch.inf).index_copy(0, kept, row[kept])
        token = self._choose(row)
        self._counts[token] = self._counts.get(token, 0) + 1
        return token

    def _penalized(self, row: torch.Tensor) -> torch.Tensor:
        presence, frequency = self._sampling.presence_penalty, self._sampling.frequency_penalty
        if not self._counts or not (presence or frequency):
            return row
        row = row.clone()
        seen = torch.tensor(list(self._counts))
        times = torch.tensor(list(self._counts.values()), dtype=torch.float32)
        row[seen] -= presence + frequency * times
        return row

    def _choose(self, row: torch.Tensor) -> int:
        sampling = self._sampling
        if sampling.temperature < _GREEDY:
            return int(row.argmax())
        if sampling.top_k:
            values, indices = row.topk(min(sampling.top_k, row.numel()))
        else:
            values, indices = row.sort(descending=True)
        # Shifted by the maximum, so that no temperature overflows.
        weights = torch.softmax((values - values[0]) / sampling.temperature, dim=-1)
        if sampling.top_p is not None and sampling.top_p < 1.0:
            before = weights.cumsum(-1) - weights
            weights = weights.masked_fill(before >= sampling.top_p, 0.0)
        return int(indices[torch.multinomial(weights, 1, generator=self._generator)])
