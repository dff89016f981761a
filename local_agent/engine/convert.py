"""GGUF to safetensors and tokenizer files, once per machine, tensor by tensor."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HubTokenizer

__all__ = ["convert_gguf", "exclusive", "unpermute"]

# Part of the cache key: raise it when the output changes.
_FORMAT = 1
_CONTROL = 3  # gguf.TokenType.CONTROL
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
Progress = Callable[[int, int], None]


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock between processes; a process that dies releases it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def unpermute(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Return Q or K rows in transformers' order; GGUF interleaves the two halves of each head for RoPE."""
    half = weight.shape[0] // heads // 2
    halves: np.ndarray[Any, Any] = weight.reshape(heads, half, 2, *weight.shape[1:]).swapaxes(1, 2)
    return np.reshape(halves, weight.shape)


def convert_gguf(source: Path, cache: Path, name: str, progress: Progress) -> Path:
    """Return the directory of the converted model, converting first if need be.

    Several processes may ask at once: one converts, the others wait; a directory under its final
    name is always complete.

    Args:
        source: The GGUF file.
        cache: Where converted models are kept.
        name: The model's name; becomes part of the path.
        progress: Called with tensors done and tensors in all.
    """
    target = cache / f"{name}-{_fingerprint(source)}"
    if target.is_dir():
        return target
    with exclusive(cache / f".{name}.lock"):
        if target.is_dir():
            return target
        for leftover in cache.glob(f".{name}-*.tmp"):  # of a process that died; the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        work = cache / f".{target.name}.{os.getpid()}.tmp"
        work.mkdir(parents=True)
        _convert(source, work, progress)
        work.rename(target)
    return target


def _fingerprint(source: Path) -> str:
    size = source.stat().st_size
    digest = hashlib.sha256(f"{_FORMAT}:{size}:".encode())
    with source.open("rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(max(0, size - (1 << 20)))
        digest.update(file.read())
    return digest.hexdigest()[:12]


def _convert(source: Path, work: Path, progress: Progress) -> None:
    progress(0, 1)
    reader = GGUFReader(source)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    if fields["general.architecture"] != "llama":
        raise ValueError(f"{source.name}: architecture {fields['general.architecture']!r} is not supported")
    _write_tokenizer(fields, work)
    config = _config(fields)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for number, tensor in enumerate(reader.tensors):
        progress(number, len(reader.tensors))
        weight = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if ".attn_q." in tensor.name:
            weight = unpermute(weight, config["num_attention_heads"])
        elif ".attn_k." in tensor.name:
            weight = unpermute(weight, config["num_key_value_heads"])
        tensors[_tensor_name(tensor.name)] = np.ascontiguousarray(weight)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    _dump(work / "config.json", config)
    # fp32: the file is mapped, not read, so starting costs no copy and processes share the pages.
    save_file(tensors, work / "model.safetensors", metadata={"format": "pt"})
    (work / "model.safetensors").chmod(0o644)  # the cache may be shared between users; safetensors writes 0600
    progress(len(reader.tensors), len(reader.tensors))


def _tensor_name(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_NAMES[parts[2]]}.{parts[3]}"
    return f"{_NAMES[parts[0]]}.{parts[1]}"


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": fields.get("llama.rope.freq_base", 10000.0),
        "max_position_embeddings": fields["llama.context_length"],
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
    }


def _write_tokenizer(fields: dict[str, Any], work: Path) -> None:
    """Write the byte-level BPE of the `smollm` family as `tokenizer.json` and its config."""
    pre = fields.get("tokenizer.ggml.pre")
    if fields["tokenizer.ggml.model"] != "gpt2" or pre != "smollm":
        raise ValueError(f"tokenizer {fields['tokenizer.ggml.model']!r}/{pre!r} is not supported")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    inner: Any = HubTokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    kinds: list[int] = fields["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    inner.save(str(work / "tokenizer.json"))
    _dump(
        work / "tokenizer_config.json",
        {
            "chat_template": fields["tokenizer.chat_template"],
            "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
            "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        },
    )


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), "utf-8")
