"""Tests of the conversion of GGUF files."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from safetensors.numpy import load_file

from local_agent.engine.convert import convert_gguf, unpermute
from local_agent.engine.tokenizer import Tokenizer
from local_agent.engine.weights import load_model

HEADS, KV_HEADS, HIDDEN, FFN = 4, 2, 64, 128
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "ab", "\u0120", "\u010a", "\u00c3", "\u00a9"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"


def permute(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Interleave the halves of each head, as llama.cpp's converter does."""
    shape = (heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape))


@pytest.fixture
def gguf_file(tmp_path: Path, tiny_llama: tuple[Path, Any]) -> Path:
    """The tiny Llama as a GGUF file with quantized matrices and a byte-level tokenizer."""
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    config = tiny_llama[1].config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(5000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    padded = TOKENS + [f"<pad{i}>" for i in range(96 - len(TOKENS))]
    writer.add_token_list(padded)
    writer.add_token_types([3 if token.startswith("<") else 1 for token in padded])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for name, stored in load_file(tiny_llama[0] / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, layer, stem = stem.split(".", 3)
            own = f"blk.{layer}.{names[stem]}.weight"
        else:
            own = f"{names[stem]}.weight"
        interleaved = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(own.split(".")[-2])
        tensor = permute(stored, interleaved) if interleaved else stored
        if tensor.ndim == 2:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(own, quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(own, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_unpermute_undoes_the_interleaving() -> None:
    """Rows come back to where transformers expects them."""
    weight = np.arange(HIDDEN * 3, dtype=np.float32).reshape(HIDDEN, 3)
    assert np.array_equal(unpermute(permute(weight, HEADS), HEADS), weight)


def test_convert_gives_the_same_model(gguf_file: Path, tiny_llama: tuple[Path, Any], tmp_path: Path) -> None:
    """The converted model has the original's logits, to the precision of the 8-bit weights."""
    seen = []
    directory = convert_gguf(gguf_file, tmp_path / "cache", "tiny", lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    model, _ = load_model(
        directory, device=torch.device("cpu"), dtype=torch.float32, int4=False, progress=lambda _done, _total: None
    )
    ids = torch.tensor([[1, 5, 9, 13, 17, 3, 4]])
    with torch.inference_mode():
        wanted, got = tiny_llama[1](ids).logits, model(ids).logits
    assert float((wanted - got).norm() / wanted.norm()) < 0.02


def test_convert_writes_the_tokenizer(gguf_file: Path, tmp_path: Path) -> None:
    """Tokens, end token and chat template come from the file; raw bytes come back from tokens."""
    tokenizer = Tokenizer(convert_gguf(gguf_file, tmp_path / "cache", "tiny", lambda _done, _total: None))
    assert tokenizer.eos_ids == {2}
    assert tokenizer.encode("<|im_start|>ab\n", add_special=False) == [1, 5, 7]
    assert [tokenizer.token_bytes(token) for token in (1, 5, 6, 7, 8, 9)] == [b"", b"ab", b" ", b"\n", b"\xc3", b"\xa9"]
    assert tokenizer.template is not None
    assert tokenizer.template.render([{"role": "user", "content": "x"}]) == "<|im_start|>x<|im_end|><|im_start|>"


def test_convert_happens_once(gguf_file: Path, tmp_path: Path) -> None:
    """A second start finds the result; a leftover of a killed conversion is swept away."""
    cache = tmp_path / "cache"
    (cache / ".tiny-dead.1.tmp").mkdir(parents=True)
    first = convert_gguf(gguf_file, cache, "tiny", lambda _done, _total: None)
    calls: list[int] = []
    assert convert_gguf(gguf_file, cache, "tiny", lambda done, _total: calls.append(done)) == first
    assert calls == []
    assert sorted(path.name for path in cache.iterdir()) == [".tiny.lock", first.name]


def test_convert_by_several_at_once(gguf_file: Path, tmp_path: Path) -> None:
    """Agents that start together share one conversion and never see half of it."""
    cache = tmp_path / "cache"
    converted: list[int] = []
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(convert_gguf, gguf_file, cache, "tiny", lambda *_: converted.append(1)) for _ in range(3)]
        (directory,) = {job.result(60) for job in jobs}
    alone = len(converted)
    convert_gguf(gguf_file, tmp_path / "other", "tiny", lambda *_: converted.append(1))
    assert len(converted) == 2 * alone
    assert json.loads((directory / "config.json").read_text())["tie_word_embeddings"] is True


def test_convert_refuses_other_architectures(tmp_path: Path) -> None:
    """A file that this converter does not understand is named, and nothing is left behind under its final name."""
    path = tmp_path / "other.gguf"
    writer = GGUFWriter(path, "mamba")
    writer.add_tensor("x", np.zeros((1024, 1024), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="'mamba' is not supported"):
        convert_gguf(path, tmp_path / "cache", "other", lambda _done, _total: None)
    assert not [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]
