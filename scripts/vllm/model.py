"""The home-made model: a Llama of two layers that recites one sentence, and an adapter that goes with it.

Its layers add nothing, so that the next token depends on the last one alone: each word of the sentence leads to the
next, and the end back to the beginning. That makes every answer known beforehand, and a text that is continued
elsewhere can be checked to the character, as with no model that has learned. It takes kilobytes and no download.
"""

from __future__ import annotations

import json
import random
import re
from array import array
from pathlib import Path
from typing import Any

__all__ = ["CONTEXT", "SENTENCE", "write_adapter", "write_model"]

SENTENCE = (
    "Once upon a time there lived seven small foxes🦊 who could count every star above their quiet café, and never"
    " grew tired of telling strangers about it."
)
"""What it says: no word twice, one character of two bytes within a word, and one of four bytes in as many tokens."""
CONTEXT = 4096
"""The tokens that it is made for."""
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
_END = "<|end|>"
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_HIDDEN = 128
_HEADS = 4
_LAYERS = 2
_SHARPNESS = 64.0
"""How far the word that follows is above all others: no temperature makes another one likely."""
_Tensors = dict[str, tuple[tuple[int, ...], "array[float]"]]
"""Name to shape and numbers."""


def write_model(folder: Path) -> None:
    """Write the model's configuration, tokenizer and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    words = _words()
    vocabulary, merges = _vocabulary(words)
    special = [_END, *_ROLES]
    first = len(vocabulary)
    vocabulary |= {token: first + number for number, token in enumerate(special)}
    _write(folder / "config.json", _config(len(vocabulary), vocabulary[_END]))
    _write(folder / "generation_config.json", {"eos_token_id": vocabulary[_END]})
    _write(folder / "tokenizer.json", _tokenizer(vocabulary, merges, special))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": _END,
            "pad_token": _END,
            "model_max_length": CONTEXT,
            "chat_template": _TEMPLATE,
        },
    )
    ring = [vocabulary[token] for token in words]
    follows = dict(zip(ring, [*ring[1:], vocabulary[_END]], strict=True))
    follows |= {vocabulary[token]: ring[0] for token in ("<|assistant|>", _END)}
    _write_tensors(folder / "model.safetensors", _weights(len(vocabulary), follows))


def write_adapter(folder: Path) -> None:
    """Write a LoRA adapter of the model that changes nothing of what it says."""
    folder.mkdir(parents=True, exist_ok=True)
    targets = ("q_proj", "v_proj")
    _write(
        folder / "adapter_config.json",
        {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 8, "target_modules": list(targets)},
    )
    name = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"
    tensors: _Tensors = {}
    for layer in range(_LAYERS):
        for target in targets:
            tensors[name.format(layer, target, "A")] = ((8, _HIDDEN), _zeros(8 * _HIDDEN))
            tensors[name.format(layer, target, "B")] = ((_HIDDEN, 8), _zeros(_HIDDEN * 8))
    _write_tensors(folder / "adapter_model.safetensors", tensors)


def _config(size: int, end: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size,
        "hidden_size": _HIDDEN,
        "intermediate_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "head_dim": _HIDDEN // _HEADS,
        "max_position_embeddings": CONTEXT,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": end,
        "eos_token_id": end,
    }


# --- its tokens: every byte, and each word of the sentence ---------------------------------------


def _spelled() -> dict[int, str]:
    """Return the character that a tokenizer of bytes writes for each byte, as GPT-2 has it."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def _words() -> list[str]:
    """Return the tokens of the sentence in its order; what is neither letter nor space stays single bytes."""
    spelled = _spelled()
    words: list[str] = []
    for part in re.findall(r" ?\w+|[^\w ]", SENTENCE):
        written = "".join(spelled[byte] for byte in part.encode())
        words += [written] if part.strip().isalpha() else list(written)
    if len(set(words)) < len(words):
        raise ValueError("a token of the sentence comes twice: what follows it is not told by it alone")
    return words


def _vocabulary(words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the ids of all bytes and words, and the merges that make a word of its bytes, from its left."""
    tokens = dict.fromkeys(_spelled().values())
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
            tokens[word[: end + 1]] = None
    return {token: number for number, token in enumerate(tokens)}, list(merges)


def _tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]], special: list[str]) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    plain = {token: number for token, number in vocabulary.items() if token not in special}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[token], "content": token, **flags} for token in special],
        "normalizer": None,
        "pre_tokenizer": bytes_,
        "post_processor": bytes_,
        "decoder": bytes_,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": plain,
            "merges": [list(pair) for pair in merges],
        },
    }


# --- its weights ---------------------------------------------------------------------------------


def _weights(size: int, follows: dict[int, int]) -> _Tensors:
    """Return weights under which each token leads to the one that follows it."""
    dice = random.Random(0)  # noqa: S311 - the same numbers in every run
    embedding = array("f", [dice.choice((-1.0, 1.0)) for _ in range(size * _HIDDEN)])
    head = _zeros(size * _HIDDEN)
    for token, following in follows.items():
        for place in range(_HIDDEN):
            head[following * _HIDDEN + place] += embedding[token * _HIDDEN + place] * _SHARPNESS / _HIDDEN
    square, ones = (_HIDDEN, _HIDDEN), array("f", [1.0] * _HIDDEN)
    tensors: _Tensors = {
        "model.embed_tokens.weight": ((size, _HIDDEN), embedding),
        "model.norm.weight": ((_HIDDEN,), ones),
        "lm_head.weight": ((size, _HIDDEN), head),
    }
    matrices = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        tensors |= {f"{prefix}.{matrix}.weight": (square, _zeros(_HIDDEN * _HIDDEN)) for matrix in matrices}
        tensors |= {f"{prefix}.{norm}_layernorm.weight": ((_HIDDEN,), ones) for norm in ("input", "post_attention")}
    return tensors


def _zeros(count: int) -> array[float]:
    return array("f", bytes(4 * count))


def _write_tensors(path: Path, tensors: _Tensors) -> None:
    """Write tensors as safetensors: the header's length, the header, and the numbers in its order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (shape, numbers) in tensors.items():
        end = at + 4 * len(numbers)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    with path.open("wb") as sink:
        sink.write(len(told).to_bytes(8, "little") + told)
        for _, numbers in tensors.values():
            sink.write(numbers.tobytes())


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
