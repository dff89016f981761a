"""Linear layers with 4-bit weights, on the kernels that torch itself ships for MPS, CUDA and CPU.

A weight is held as 4-bit numbers in groups along its input dimension: `w = (q - 8) * scale + zero`.
Checkpoints of MLX hold the same thing as `w = q * scale + bias`, so they convert without loss.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

__all__ = ["GROUP_SIZE", "Int4Linear", "kernel_for", "pack_nibbles", "quantize_rows", "unpack_nibbles"]

GROUP_SIZE = 64
_INNER_K_TILES = 8
# torch's MPS kernel handles row by row: beyond a few rows, unpacking once and a dense product is faster.
_FEW_ROWS = 8
_DENSE_ROWS = 4096
Kernel = Literal["tiled", "tiled_few_rows", "cpu", "reference"]


def pack_nibbles(q: torch.Tensor) -> torch.Tensor:
    """Return numbers 0 to 15, `[rows, k]`, as bytes `[rows, k / 2]` with the even column in the high half."""
    q = q.to(torch.uint8)
    return (q[:, ::2] << 4) | q[:, 1::2]


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Return the numbers that `pack_nibbles` packed."""
    return torch.stack((packed >> 4, packed & 0xF), dim=-1).reshape(packed.shape[0], -1)


def quantize_rows(weight: torch.Tensor, group: int = GROUP_SIZE) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return numbers `[rows, k]`, scales and zeros `[rows, k / group]` nearest to a dense weight."""
    grouped = weight.float().reshape(weight.shape[0], -1, group)
    low, high = grouped.amin(-1), grouped.amax(-1)
    scales = (high - low).clamp(min=1e-6) / 15
    q = ((grouped - low[..., None]) / scales[..., None]).round().clamp(0, 15)
    return q.to(torch.uint8).reshape(weight.shape), scales, low + 8 * scales


class Int4Linear(nn.Module):
    """A linear layer without bias whose weight is held in 4 bits.

    Args:
        q: The weight's numbers, 0 to 15, `[out, in]`.
        scales: One per group, `[out, in / group]`.
        zeros: The value of number 8 per group, `[out, in / group]`.
        device: Where to serve.
        dtype: Of the activations.
        kernel: How products are computed; see `kernel_for`.
    """

    def __init__(
        self,
        q: torch.Tensor,
        scales: torch.Tensor,
        zeros: torch.Tensor,
        *,
        device: torch.device,
        dtype: torch.dtype,
        kernel: Kernel,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = q.shape
        self._group = self.in_features // scales.shape[1]
        self._kernel = kernel
        pairs = torch.stack((scales, zeros), dim=-1).transpose(0, 1).contiguous()
        self.scales_and_zeros = nn.Buffer(pairs.to(device, dtype), persistent=False)
        self.nibbles: torch.Tensor | None = None
        self.packed: torch.Tensor | None = None
        if kernel in ("reference", "tiled_few_rows"):
            self.nibbles = pack_nibbles(q).to(device)
        if kernel in ("tiled", "tiled_few_rows"):
            self.packed = torch.ops.aten._convert_weight_to_int4pack(pack_nibbles(q).to(device), _INNER_K_TILES)
        elif kernel == "cpu":
            self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.to(torch.int32), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x @ weight.T`."""
        rows = x.reshape(-1, self.in_features)
        return self._product(rows).reshape(*x.shape[:-1], self.out_features)

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        if self.packed is None or (self.nibbles is not None and rows.shape[0] > _FEW_ROWS):
            return self._dense(rows)
        operator = torch.ops.aten
        product = operator._weight_int4pack_mm_for_cpu if self._kernel == "cpu" else operator._weight_int4pack_mm
        result: torch.Tensor = product(rows.contiguous(), self.packed, self._group, self.scales_and_zeros)
        return result

    def _dense(self, rows: torch.Tensor) -> torch.Tensor:
        """Unpack blocks of the weight and multiply: bounded memory, dense speed for many rows."""
        blocks = [
            functional.linear(rows, self.dequantize(start, start + _DENSE_ROWS))
            for start in range(0, self.out_features, _DENSE_ROWS)
        ]
        return torch.cat(blocks, dim=-1)

    def dequantize(self, start: int = 0, end: int | None = None) -> torch.Tensor:
        """Return rows `start` to `end` of the weight, dense."""
        if self.nibbles is None:
            raise ValueError(f"the {self._kernel} kernel keeps no readable weight")
        q = unpack_nibbles(self.nibbles[start:end])
        scales, zeros = self.scales_and_zeros[:, start:end].transpose(0, 1).unbind(-1)
        grouped = q.reshape(q.shape[0], -1, self._group).to(scales.dtype) - 8
        return (grouped * scales[..., None] + zeros[..., None]).reshape(q.shape)


def kernel_for(device: torch.device, dtype: torch.dtype) -> Kernel:
    """Return the fastest way to multiply on a device that also gives right results there.

    The device's own kernel is tried on a small layer; where it is missing or wrong, weights are
    unpacked for every product, which is slower and always right.
    """
    wanted: Kernel = {"mps": "tiled_few_rows", "cuda": "tiled"}.get(device.type, "cpu")  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    q, scales, zeros = quantize_rows(torch.randn(64, 1024, generator=generator))
    x = torch.randn(1, 1024, generator=generator).to(device, dtype)
    try:
        fast = Int4Linear(q, scales, zeros, device=device, dtype=dtype, kernel=wanted)(x)
    except (RuntimeError, NotImplementedError):
        return "reference"
    right = Int4Linear(q, scales, zeros, device=device, dtype=dtype, kernel="reference")(x)
    error = (fast - right).float().norm() / right.float().norm()
    return wanted if bool(error < 0.02) else "reference"
