"""Tests of 4-bit linear layers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from local_agent.engine.quantize import Int4Linear, Kernel, kernel_for, pack_nibbles, quantize_rows, unpack_nibbles

CPU = torch.device("cpu")


def dequantized(q: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """Return the dense weight by the definition."""
    group = q.shape[1] // scales.shape[1]
    return (q.float() - 8) * scales.repeat_interleave(group, 1) + zeros.repeat_interleave(group, 1)


def test_nibbles_round_trip() -> None:
    """Packing two numbers into a byte loses nothing."""
    q = torch.randint(0, 16, (8, 32), dtype=torch.uint8)
    assert pack_nibbles(q).shape == (8, 16)
    assert torch.equal(unpack_nibbles(pack_nibbles(q)), q)


def test_quantize_rows_is_within_half_a_step() -> None:
    """Every weight is at most half a step from what it stood for; a constant group is exact."""
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    weight[0] = 0.25
    q, scales, zeros = quantize_rows(weight)
    error = (dequantized(q, scales, zeros) - weight).abs()
    assert bool((error <= scales.repeat_interleave(64, 1) / 2 + 1e-5).all())
    assert error[0].max() < 1e-5


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_int4_linear_multiplies(kernel: Kernel, rows: int) -> None:
    """Each kernel gives the product with the dequantized weight, for few rows and for many."""
    generator = torch.Generator().manual_seed(0)
    q, scales, zeros = quantize_rows(torch.randn(64, 128, generator=generator))
    x = torch.randn(2, rows, 128, generator=generator)
    layer = Int4Linear(q, scales, zeros, device=CPU, dtype=torch.float32, kernel=kernel)
    expected = functional.linear(x, dequantized(q, scales, zeros))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_int4_linear_unpacks_in_blocks() -> None:
    """Any range of rows can be unpacked by itself."""
    q, scales, zeros = quantize_rows(torch.randn(16, 64))
    layer = Int4Linear(q, scales, zeros, device=CPU, dtype=torch.float32, kernel="reference")
    torch.testing.assert_close(layer.dequantize(4, 8), dequantized(q, scales, zeros)[4:8])
    packed_only = Int4Linear(q, scales, zeros, device=CPU, dtype=torch.float32, kernel="cpu")
    with pytest.raises(ValueError, match="keeps no readable weight"):
        packed_only.dequantize()


def test_kernel_for_takes_what_gives_right_results() -> None:
    """The device's own kernel is taken where it is right, the reference where it refuses."""
    assert kernel_for(CPU, torch.float32) == "cpu"
    assert kernel_for(CPU, torch.float64) == "reference"
