"""Tests of loading weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from local_agent.engine.quantize import Int4Linear, quantize_rows
from local_agent.engine.weights import load_model

CPU = torch.device("cpu")
IDS = torch.tensor([[1, 5, 9, 13, 17]])


def load(directory: Path, *, int4: bool) -> tuple[Any, str]:
    """Load for the CPU in fp32."""
    return load_model(directory, device=CPU, dtype=torch.float32, int4=int4, progress=lambda _done, _total: None)


def to_mlx(directory: Path) -> None:
    """Rewrite a checkpoint as MLX writes it: 4-bit words, scales and biases, for every matrix."""
    tensors = {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        if tensor.dim() != 2:
            tensors[name] = tensor
            continue
        q, scales, zeros = quantize_rows(tensor)
        scales, zeros = scales.half().float(), zeros.half().float()
        words = torch.zeros(q.shape[0], q.shape[1] // 8, dtype=torch.int64)
        for position in range(8):
            words |= q[:, position::8].to(torch.int64) << (4 * position)
        module = name.removesuffix(".weight")
        tensors[name] = words.to(torch.uint32)
        tensors[f"{module}.scales"] = scales
        tensors[f"{module}.biases"] = zeros - 8 * scales
    save_file(tensors, directory / "model.safetensors", metadata={"format": "mlx"})
    config = json.loads((directory / "config.json").read_text())
    config["quantization"] = config["quantization_config"] = {"group_size": 64, "bits": 4}
    (directory / "config.json").write_text(json.dumps(config))


def test_load_model_is_the_same_model(tiny_llama: tuple[Path, Any]) -> None:
    """Loading through the meta device gives exactly what transformers' own loading gives, shared layers included."""
    directory, original = tiny_llama
    model, form = load(directory, int4=False)
    assert form == "float32"
    assert model.lm_head.weight is model.get_input_embeddings().weight
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS).logits, original(IDS).logits)


def test_load_model_quantizes_on_the_way(tiny_mistral: tuple[Path, Any]) -> None:
    """With int4 every linear layer is held in 4 bits and the logits stay close."""
    directory, original = tiny_mistral
    model, form = load(directory, int4=True)
    assert form == "int4"
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert linear == []
    assert sum(isinstance(module, Int4Linear) for module in model.modules()) == 2 * 7 + 1
    with torch.inference_mode():
        wanted, got = original(IDS).logits, model(IDS).logits
    assert float((wanted - got).norm() / wanted.norm()) < 0.2


@pytest.mark.parametrize("int4", [False, True])
def test_load_model_reads_mlx_checkpoints(tiny_mistral: tuple[Path, Any], int4: bool) -> None:
    """A checkpoint of MLX gives the same logits unpacked and as 4-bit layers."""
    directory, _ = tiny_mistral
    expected = {
        name: dense(tensor) if tensor.dim() == 2 else tensor
        for name, tensor in load_file(directory / "model.safetensors").items()
    }
    to_mlx(directory)
    model, _ = load(directory, int4=int4)
    _, original = tiny_mistral
    original.load_state_dict(expected)
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS).logits, original(IDS).logits, rtol=1e-3, atol=1e-3)


def dense(weight: torch.Tensor) -> torch.Tensor:
    """Return what a weight becomes when it is quantized and unpacked again."""
    q, scales, zeros = quantize_rows(weight)
    scales, zeros = scales.half().float(), zeros.half().float()
    return (q.float() - 8) * scales.repeat_interleave(64, 1) + zeros.repeat_interleave(64, 1)


def test_load_model_names_missing_weights(tiny_llama: tuple[Path, Any]) -> None:
    """A truncated checkpoint is refused at once instead of failing at the first request."""
    directory, _ = tiny_llama
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(ValueError, match=r"no weights for model\.norm\.weight"):
        load(directory, int4=False)
