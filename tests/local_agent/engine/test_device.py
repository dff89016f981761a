"""Tests of device choice and prefill chunks."""

from __future__ import annotations

import pytest
import torch

from local_agent.engine.device import available_memory, chunk_sizes, pick_device, serving_dtype

LIMIT = 256 * 1024 * 1024


@pytest.mark.parametrize("kind", ["mps", "cuda", "cpu"])
@pytest.mark.parametrize("heads", [9, 32, 64])
def test_chunk_scores_stay_bounded(kind: str, heads: int) -> None:
    """At no context length do a chunk's attention scores exceed 256 MiB, and sizes repeat."""
    chunk = chunk_sizes(torch.device(kind), heads)
    sizes = {cached: chunk(cached) for cached in range(0, 32768, 32)}
    assert set(sizes.values()) <= {32, 64, 128, 256, 512}
    for cached, size in sizes.items():
        assert size == 32 or heads * (cached + size) * size * 4 <= LIMIT


def test_chunk_sizes_of_mistral_on_mps() -> None:
    """With 32 heads: 512 up to 4k, 256 towards 8k, and small ones far out."""
    chunk = chunk_sizes(torch.device("mps"), 32)
    assert [chunk(cached) for cached in (0, 3584, 3616, 7936, 32000)] == [512, 512, 256, 256, 64]


def test_pick_device_says_when_the_wanted_one_is_missing() -> None:
    """An absent device is replaced by the best there is, with the reason."""
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    device, reason = pick_device("cuda")
    assert device.type in ("mps", "cpu")
    assert reason is not None
    assert "LOCAL_AGENT_DEVICE=cuda" in reason
    assert pick_device("cpu") == (torch.device("cpu"), None)
    assert pick_device("auto")[1] is None


def test_cpu_serves_in_fp32_with_half_the_memory() -> None:
    """CPUs without matrix units are slow in bf16, and leave half their memory to others."""
    assert serving_dtype(torch.device("cpu")) is torch.float32
    assert serving_dtype(torch.device("mps")) is torch.bfloat16
    assert available_memory(torch.device("cpu")) > 1 << 28
