"""Text to token ids and token ids to bytes, from a model's `tokenizer.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HubTokenizer

from local_agent.prompts import ChatTemplate

__all__ = ["Tokenizer", "byte_level_alphabet"]

_LAST_WORD_TOKENS = 8
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_level_alphabet() -> dict[str, int]:
    """Return GPT-2's printable stand-in of every byte, as character to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _token_text(value: Any) -> str | None:
    """Return a special token's text; configs hold it bare or inside an object."""
    return value.get("content") if isinstance(value, dict) else value


class Tokenizer:
    """A model's vocabulary and chat template.

    Args:
        directory: Where `tokenizer.json`, `tokenizer_config.json` and the configs of the model are.
    """

    def __init__(self, directory: Path) -> None:
        self._inner: Any = HubTokenizer.from_file(str(directory / "tokenizer.json"))
        spec = _read_json(directory / "tokenizer.json")
        config = _read_json(directory / "tokenizer_config.json")
        self._byte_level = '"ByteLevel"' in json.dumps(spec.get("decoder"))
        self._alphabet = byte_level_alphabet()
        self._added: dict[int, bytes] = {
            token["id"]: b"" if token["special"] else token["content"].encode() for token in spec["added_tokens"]
        }
        self._bytes: dict[int, bytes] = {}
        self.eos_ids = self._end_tokens(directory, config)
        names = {key: _token_text(value) for key, value in config.items() if key.endswith("_token")}
        template = _chat_template(directory, config)
        self.template = None if template is None else ChatTemplate(template, {k: v for k, v in names.items() if v})
        self.strip_leading_space = not self._byte_level
        """Whether the first word of an answer carries a space that is not part of it."""

    def _end_tokens(self, directory: Path, config: dict[str, Any]) -> frozenset[int]:
        ends: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            value = _read_json(directory / name).get("eos_token_id")
            ends.update(value if isinstance(value, list) else [] if value is None else [value])
        token = _token_text(config.get("eos_token"))
        if token is not None and (known := self._inner.token_to_id(token)) is not None:
            ends.add(known)
        return frozenset(ends)

    @property
    def size(self) -> int:
        """The number of tokens."""
        return int(self._inner.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """Return the ids of a text; `add_special` adds what the model expects around raw text."""
        return list(self._inner.encode(text, add_special_tokens=add_special).ids)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that a token stands for; none for control tokens."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._token_bytes(token)
        return known

    def _token_bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token]
        piece: str | None = self._inner.id_to_token(token)
        if piece is None:
            return b""  # a padded vocabulary: ids without a token
        if self._byte_level:
            return bytes(self._alphabet[char] for char in piece)
        if match := _BYTE_TOKEN.fullmatch(piece):
            return bytes([int(match.group(1), 16)])
        return piece.replace("\u2581", " ").encode()

    def encode_answer(self, text: str) -> list[int]:
        """Return the ids of the beginning of an answer, as the model would have generated it.

        Apart from the prompt, because a joint encoding may merge characters across the border.
        """
        return self.encode(text, add_special=False)

    def split_answer(self, text: str) -> tuple[list[int], bytes]:
        """Return the ids of the beginning of an answer up to its last word, and that word's bytes.

        The last word may be cut anywhere, also where no token ends; the model continues well only if
        it writes that word anew, held to the bytes that are given (`continuations`).
        """
        ids = self.encode_answer(text)
        first = max(0, len(ids) - _LAST_WORD_TOKENS)
        for start in range(len(ids) - 1, first - 1, -1):
            if self.token_bytes(ids[start])[:1].isspace():
                break
        else:
            start = first
        return ids[:start], b"".join(map(self.token_bytes, ids[start:]))

    def continuations(self, owed: bytes) -> list[int]:
        """Return the tokens that can come next in a text that goes on with `owed`."""
        return [
            token
            for token in range(self.size)
            if (piece := self.token_bytes(token)) and (piece.startswith(owed) or owed.startswith(piece))
        ]

    def continues_exactly(self) -> bool:
        """Return whether the beginning of an answer is tokenised to exactly its own text."""
        lead = b" " if self.strip_leading_space else b""
        return self.template is not None and all(
            b"".join(map(self.token_bytes, self.encode_answer(text))) == lead + text.encode()
            for text in ("Paris", "a  b", "\n\n1. \u00e9\u6f22\U0001f600")
        )


def _chat_template(directory: Path, config: dict[str, Any]) -> str | None:
    """Return the template's source; newer repositories keep it in a file of its own."""
    own = directory / "chat_template.jinja"
    if own.is_file():
        return own.read_text("utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several named ones
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default")
    return template
