"""From safetensors files to a model that serves, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from local_agent.engine.quantize import GROUP_SIZE, Int4Linear, Kernel, kernel_for, quantize_rows

__all__ = ["Checkpoint", "load_model"]

Progress = Callable[[int, int], None]


class Checkpoint:
    """The tensors of all weight files of a directory, by name.

    Args:
        directory: Where the `model*.safetensors` files are.
    """

    def __init__(self, directory: Path) -> None:
        self._files: dict[str, Any] = {}
        for path in sorted(directory.glob("model*.safetensors")):
            opened: Any = safe_open(path, framework="pt")
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                self._files[name] = opened
        if not self._files:
            raise FileNotFoundError(f"no weights in {directory}")

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def get(self, name: str) -> torch.Tensor:
        """Return one tensor, mapped from its file."""
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        return tensor

    def is_int4(self, module: str) -> bool:
        """Return whether a module's weight is stored in MLX's 4-bit form."""
        return f"{module}.scales" in self._files

    def int4(self, module: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return numbers, scales and zeros of a weight stored in MLX's 4-bit form."""
        packed = self.get(f"{module}.weight").contiguous().view(torch.uint8)
        # MLX counts from the low end of each word: the low half of a byte is the even column.
        q = torch.stack((packed & 0xF, packed >> 4), dim=-1).reshape(packed.shape[0], -1)
        scales = self.get(f"{module}.scales").float()
        return q, scales, self.get(f"{module}.biases").float() + 8 * scales

    def dense(self, module: str) -> torch.Tensor:
        """Return a module's weight, unpacked if it is stored in 4 bits."""
        if not self.is_int4(module):
            return self.get(f"{module}.weight")
        q, scales, zeros = self.int4(module)
        grouped = q.reshape(q.shape[0], scales.shape[1], -1).float() - 8
        return (grouped * scales[..., None] + zeros[..., None]).reshape(q.shape)


def load_model(
    directory: Path, *, device: torch.device, dtype: torch.dtype, int4: bool, progress: Progress
) -> tuple[nn.Module, str]:
    """Return the model of a directory in evaluation mode, and the name of its weights' format.

    Nothing is ever held twice: each tensor goes from its mapped file to its place on the device,
    quantized on the way if `int4` asks for it.

    Args:
        directory: Config and weights.
        device: Where to serve.
        dtype: Of activations and dense weights.
        int4: Whether to hold linear layers in 4 bits.
        progress: Called with modules done and modules in all.
    """
    config = AutoConfig.from_pretrained(directory)
    for key in ("quantization", "quantization_config"):  # MLX's own; transformers must not act on it
        if hasattr(config, key):
            delattr(config, key)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    checkpoint = Checkpoint(directory)
    kernel = kernel_for(device, dtype) if int4 else None
    modules = [
        (name, module) for name, module in model.named_modules() if next(module.parameters(False), None) is not None
    ]
    for number, (name, module) in enumerate(modules):
        progress(number, len(modules))
        if f"{name}.weight" not in checkpoint:
            continue  # the output layer of a model that shares it with the embedding
        if kernel is not None and isinstance(module, nn.Linear):
            model.set_submodule(name, _int4_linear(checkpoint, name, device, dtype, kernel))
        else:
            _fill(module, checkpoint, name, device, dtype)
    if "lm_head.weight" not in checkpoint:
        model.lm_head.weight = model.get_input_embeddings().weight
    # Computed, not stored: the skeleton on the meta device has shapes only.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    if missing := [name for name, tensor in _tensors(model) if tensor.is_meta]:
        raise ValueError(f"{directory}: no weights for {', '.join(missing[:3])} ({len(missing)} in all)")
    progress(len(modules), len(modules))
    return model.eval().requires_grad_(requires_grad=False), "int4" if int4 else str(dtype).removeprefix("torch.")


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _int4_linear(
    checkpoint: Checkpoint, name: str, device: torch.device, dtype: torch.dtype, kernel: Kernel
) -> Int4Linear:
    if checkpoint.is_int4(name):
        q, scales, zeros = checkpoint.int4(name)
    else:
        q, scales, zeros = quantize_rows(checkpoint.get(f"{name}.weight").to(device), GROUP_SIZE)
    return Int4Linear(q, scales, zeros, device=device, dtype=dtype, kernel=kernel)


def _fill(module: nn.Module, checkpoint: Checkpoint, name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Give a module its stored parameters."""
    for own, _ in list(module.named_parameters(recurse=False)):
        tensor = checkpoint.dense(name) if own == "weight" else checkpoint.get(f"{name}.{own}")
        setattr(module, own, nn.Parameter(tensor.to(device, dtype), requires_grad=False))
