"""Tests of the incremental detokenizer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from local_agent.detokenizer import Detokenizer, StopMatcher

TEXT = st.text(alphabet="abc <>", max_size=40)
STOPS = st.lists(st.text(alphabet="abc<", min_size=1, max_size=4), max_size=3)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut data at positions taken from arbitrary numbers."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def run(tokens: list[bytes], stops: list[str]) -> tuple[str, list[str], bool]:
    """Return the whole text, its pieces, and whether a stop string ended it."""
    detokenizer = Detokenizer(stops)
    pieces = []
    for token in tokens:
        pieces.append(detokenizer.push(token))
        if detokenizer.stopped:
            break
    pieces.append(detokenizer.flush())
    return "".join(pieces), pieces, detokenizer.stopped


@given(st.text(max_size=60), st.lists(st.integers(min_value=0), max_size=20))
def test_detokenizer_text_survives_any_split(text: str, cuts: list[int]) -> None:
    """Bytes split anywhere give the same text, and no piece holds half a code point."""
    whole, pieces, _ = run(split(text.encode(), cuts), [])
    assert whole == text
    for piece in pieces:
        piece.encode()


@given(TEXT, STOPS, st.lists(st.integers(min_value=0), max_size=20))
def test_detokenizer_stop_is_independent_of_the_split(text: str, stops: list[str], cuts: list[int]) -> None:
    """The text shown is what character-by-character reading shows, up to the first complete stop string."""
    shown, stopped = text, False
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            shown, stopped = text[: end - max(map(len, found))], True
            break
    whole, pieces, met = run(split(text.encode(), cuts), stops)
    assert (whole, met) == (shown, stopped)
    so_far = ""
    for piece in pieces:
        so_far += piece
        assert shown.startswith(so_far)


@given(TEXT, STOPS)
def test_detokenizer_holds_back_only_what_may_become_a_stop(text: str, stops: list[str]) -> None:
    """What is held back is always the beginning of a stop string."""
    matcher = StopMatcher(stops)
    shown = matcher.push(text)
    if matcher.matched is None:
        held = text[len(shown) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)
        assert shown + matcher.flush() == text


def test_detokenizer_drops_an_unfinished_code_point_at_the_end() -> None:
    """Half a character at the end of a generation is left for a continuation to produce whole."""
    assert run(["é".encode() + b"\xf0\x9f"], [])[0] == "é"


def test_detokenizer_replaces_bytes_that_are_no_text() -> None:
    """Bytes that cannot begin a character become U+FFFD."""
    assert run([b"a\xffb"], [])[0] == "a\ufffdb"


@given(st.text(max_size=30), st.integers(min_value=0), st.lists(st.integers(min_value=0), max_size=20))
def test_detokenizer_does_not_show_what_is_owed(text: str, cut: int, cuts: list[int]) -> None:
    """Of a text whose beginning the caller has, exactly the rest is shown."""
    place = cut % (len(text) + 1)
    detokenizer = Detokenizer(owed=text[:place].encode())
    shown = "".join(detokenizer.push(token) for token in split(text.encode(), cuts))
    assert shown == text[place:]
    assert detokenizer.owed == b""


def test_detokenizer_strips_one_leading_space_if_told() -> None:
    """A SentencePiece vocabulary's first space is dropped, once."""
    detokenizer = Detokenizer(strip_leading_space=True)
    assert [detokenizer.push(token) for token in (b"", b"  Paris", b" is")] == ["", " Paris", " is"]
