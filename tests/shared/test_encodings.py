"""Compressed bodies: every encoding under any size, several in a row, bombs, damage."""

from __future__ import annotations

import gzip
import random
import sys
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.encodings import decode_body, read_encodings
from shared.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType

LIMIT = 4 * 1024 * 1024


def bare(body: bytes) -> bytes:
    """Return a body as deflate without zlib's head."""
    pack = zlib.compressobj(wbits=-15)
    return pack.compress(body) + pack.flush()


def brotli(body: bytes) -> bytes:
    """Return a body as brotli."""
    module: Any = pytest.importorskip("brotli")
    packed: bytes = module.compress(body)
    return packed


def zstd(body: bytes) -> bytes:
    """Return a body as zstd."""
    module: Any = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    packed: bytes = module.compress(body)
    return packed


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", bare),
    ("br", brotli),
    ("zstd", zstd),
]
packers = pytest.mark.parametrize(("name", "pack"), PACKERS, ids=["gzip", "deflate", "bare", "br", "zstd"])


@packers
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 3_000_000])
def test_decode_gives_back_what_was_packed(name: str, pack: Callable[[bytes], bytes], size: int) -> None:
    """Whether it compresses well or not at all."""
    for body in (b"x" * size, random.Random(7).randbytes(size)):
        assert decode_body(pack(body), (name,), LIMIT) == body


@given(st.binary(), st.lists(st.sampled_from(PACKERS[:3]), max_size=4))
def test_decode_undoes_several_in_a_row(body: bytes, steps: list[tuple[str, Callable[[bytes], bytes]]]) -> None:
    """The last one applied is the first one undone."""
    packed = body
    for _, pack in steps:
        packed = pack(packed)
    assert decode_body(packed, tuple(name for name, _ in steps), LIMIT) == body


@packers
def test_decode_stops_at_its_limit(name: str, pack: Callable[[bytes], bytes]) -> None:
    """A small body that unpacks to too much is refused, at the limit and not later."""
    assert decode_body(pack(b"x" * LIMIT), (name,), LIMIT) == b"x" * LIMIT
    with pytest.raises(PayloadTooLarge):
        decode_body(pack(b"x" * (LIMIT + 1)), (name,), LIMIT)


def test_decode_of_a_bomb_within_a_bomb_keeps_its_memory() -> None:
    """Every step has the limit."""
    bomb = gzip.compress(gzip.compress(b"\0" * 50_000_000))
    with pytest.raises(PayloadTooLarge):
        decode_body(bomb, ("gzip", "gzip"), LIMIT)


@packers
def test_decode_refuses_what_is_damaged_or_cut_off(name: str, pack: Callable[[bytes], bytes]) -> None:
    """A body that is cut off, followed by something else, or nothing of the kind is a 400."""
    packed = pack(random.Random(7).randbytes(100_000))
    for wrong in (packed[:-5], packed[:10], packed + b"{}", b"{}"):
        with pytest.raises(InvalidRequest):
            decode_body(wrong, (name,), LIMIT)


def test_decode_reads_the_members_of_gzip() -> None:
    """Members follow each other, and zeros may follow them."""
    assert decode_body(gzip.compress(b"a") + gzip.compress(b"b") + b"\0" * 9, ("gzip",), LIMIT) == b"ab"


def test_encodings_are_read_from_the_header() -> None:
    """Names in any case, with spaces; `identity` is none."""
    assert read_encodings(" GZip,identity , deflate,") == ("gzip", "deflate")
    assert read_encodings("identity") == ()
    with pytest.raises(InvalidRequest):
        read_encodings("gzip," * 6)


def test_unknown_encodings_are_told_with_those_at_hand() -> None:
    """The answer says what could be read."""
    with pytest.raises(UnsupportedMediaType, match="'rot13'") as caught:
        read_encodings("rot13")
    assert caught.value.headers()["accept-encoding"].startswith("gzip, x-gzip, deflate")


def test_an_encoding_whose_library_is_missing_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.setitem(sys.modules, "brotli", None)
    with pytest.raises(UnsupportedMediaType, match="extra `compression`") as caught:
        read_encodings("br")
    assert "br" not in caught.value.headers()["accept-encoding"].split(", ")
