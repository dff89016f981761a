"""Tests of the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HubTokenizer

from local_agent.engine.tokenizer import Tokenizer, byte_level_alphabet

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}<s>"
TEXTS = st.text(alphabet="ab é\n漢😀", max_size=12)


def write(directory: Path, inner: Any) -> Tokenizer:
    """Save a tokenizer with its configs and load it as ours."""
    directory.mkdir()
    inner.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    inner.save(str(directory / "tokenizer.json"))
    config = {"chat_template": [{"name": "default", "template": TEMPLATE}], "eos_token": {"content": "</s>"}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text('{"eos_token_id": [0]}')
    return Tokenizer(directory)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level vocabulary, as GPT-2's: all bytes and a few words."""
    alphabet = list(byte_level_alphabet())
    merges = [("a", "b"), ("\u0120", "ab")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, "ab", "\u0120ab"])}
    inner: Any = HubTokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return write(tmp_path_factory.mktemp("tokenizers") / "byte_level", inner)


@pytest.fixture(scope="module")
def sentence_piece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A SentencePiece vocabulary with byte fallback, as Mistral's."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "ab", "\u2581ab"]
    merges = [("a", "b"), ("\u2581", "ab")]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    inner: Any = HubTokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return write(tmp_path_factory.mktemp("tokenizers") / "sentence_piece", inner)


@pytest.fixture(params=["byte_level", "sentence_piece"], scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each kind of vocabulary."""
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def test_tokenizer_reads_its_configs(tokenizer: Tokenizer) -> None:
    """End tokens come from both configs, the template from a list of named ones, control tokens have no text."""
    end = tokenizer.encode("</s>", add_special=False)
    assert tokenizer.eos_ids == {0, *end}
    assert tokenizer.template is not None
    assert tokenizer.template.render([{"role": "user", "content": "x"}]) == "x<s>"
    assert tokenizer.token_bytes(end[0]) == b""
    assert tokenizer.token_bytes(10**6) == b""
    assert tokenizer.continues_exactly()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(text=TEXTS)
def test_tokenizer_bytes_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    """The bytes of an answer's tokens are the answer, after the one space that SentencePiece puts first."""
    joined = b"".join(map(tokenizer.token_bytes, tokenizer.encode_answer(text)))
    if tokenizer.strip_leading_space and text:
        assert joined.removeprefix(b" ").decode() in (text, text.removeprefix(" "))
    else:
        assert joined.decode() == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(text=TEXTS)
def test_split_answer_loses_nothing(tokenizer: Tokenizer, text: str) -> None:
    """What is kept and what is owed are the whole, and some token can always come next."""
    kept, owed = tokenizer.split_answer(text)
    whole = b"".join(map(tokenizer.token_bytes, tokenizer.encode_answer(text)))
    assert b"".join(map(tokenizer.token_bytes, kept)) + owed == whole
    while owed:
        allowed = tokenizer.continuations(owed)
        assert allowed
        pieces = [tokenizer.token_bytes(token) for token in allowed]
        assert all(piece.startswith(owed) or owed.startswith(piece) for piece in pieces)
        owed = owed[len(min(pieces, key=len)) :]


def test_split_answer_takes_back_the_last_word(byte_level: Tokenizer) -> None:
    """A word in the making is owed whole, so that the model may write it with other tokens."""
    assert byte_level.split_answer("ab ab ba") == (byte_level.encode_answer("ab ab"), b" ba")
    assert byte_level.split_answer("ab ") == (byte_level.encode_answer("ab"), b" ")
