"""Which device serves, how much memory it has, and how large a prefill chunk may be on it."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

__all__ = ["available_memory", "chunk_sizes", "pick_device", "release_cached_memory", "serving_dtype", "synchronize"]

# MPS may materialise the fp32 score matrix [heads, chunk, cached]; above this size it stalls (AGENTS.md §6).
_SCORE_BYTES = 256 * 1024 * 1024
_CHUNKS = (512, 256, 128, 64, 32)
# Few rows on a CPU: a cancelled prompt, and the other sequences, wait for one chunk at most.
_CPU_CHUNK = 128


def _present(name: str) -> bool:
    if name == "mps":
        return torch.backends.mps.is_available()
    if name == "cuda":
        return torch.cuda.is_available()
    return name == "cpu"


def pick_device(wanted: str) -> tuple[torch.device, str | None]:
    """Return the device to serve on, and why it is not the wanted one (None if it is).

    Args:
        wanted: `auto` (MPS, then CUDA, then CPU) or a device's name.
    """
    best = next(name for name in ("mps", "cuda", "cpu") if _present(name))
    if wanted in ("auto", best) or _present(wanted):
        return torch.device(best if wanted == "auto" else wanted), None
    return torch.device(best), f"LOCAL_AGENT_DEVICE={wanted} is not available here; {best} is used."


def available_memory(device: torch.device) -> int:
    """Return the bytes that models may use on this device."""
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() * 0.9)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def serving_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of activations and dense weights.

    CPUs without bf16 matrix units are several times slower in bf16 than in fp32.
    """
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def chunk_sizes(device: torch.device, heads: int) -> Callable[[int], int]:
    """Return the largest prefill chunk as a function of the tokens already cached.

    Sizes come from a short list, because MPS compiles a graph for every new shape.
    """
    cap = _CPU_CHUNK if device.type == "cpu" else _CHUNKS[0]

    def chunk(cached: int) -> int:
        for size in _CHUNKS:
            if size <= cap and heads * (cached + size) * size * 4 <= _SCORE_BYTES:
                return size
        return _CHUNKS[-1]

    return chunk


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that a heartbeat tells the truth."""
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type == "cuda":
        torch.cuda.synchronize(device)


def release_cached_memory(device: torch.device) -> None:
    """Give back what the allocator and MPS's graph cache keep."""
    if device.type == "mps":
        torch.mps.empty_cache()
    elif device.type == "cuda":
        torch.cuda.empty_cache()
