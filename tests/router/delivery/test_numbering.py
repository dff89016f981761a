"""Numbers for the events of a stream."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.delivery.numbering import Numbering, between, place_of, tag_of
from shared.errors import InvalidRequest
from shared.sse import SSEReader, encode_event

TAG = tag_of("req_1")
EVENTS = st.lists(
    st.one_of(
        st.binary(max_size=30).map(encode_event),
        st.tuples(st.binary(max_size=9), st.sampled_from(["ping", "message_start"])).map(lambda e: encode_event(*e)),
        st.sampled_from([b": comment\n\n", b":\r\n\r\n", b"data: a\r\ndata: b\r\n\r\n", b"id: 9\ndata: x\n\n"]),
    ),
    max_size=12,
)


@given(EVENTS, st.data())
def test_numbering_leaves_every_event_what_it_says(events: list[bytes], data: st.DataObject) -> None:
    """Readers get the same events, each with a number one higher than the last, whatever came at a time."""
    numbering, out, rest = Numbering(TAG), [], list(events)
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        out += numbering.feed(b"".join(rest[:count]))
        del rest[:count]
    said = [(event.data, event.event) for event in SSEReader().feed(b"".join(events)) if event.data is not None]
    told = SSEReader().feed(b"".join(out))
    assert [(event.data, event.event) for event in told] == said
    numbers = [re.findall(rb"^id: ([^\r\n]*)\r?$", event.raw, re.MULTILINE)[-1].decode() for event in told]
    assert [place_of(number) for number in numbers] == [(TAG, index + 1) for index in range(len(said))]
    assert len(out) == len(said)


def test_numbering_keeps_what_is_no_event() -> None:
    """Bytes without an end go along as they are."""
    assert b"".join(Numbering(TAG).feed(b"data: a\n\ndata: cut")).endswith(b"\n\ndata: cut")


def test_comment_between_numbered_events_has_no_empty_line() -> None:
    """A ping that is a comment becomes a line before the next event; one that is an event stays."""
    assert between(b": ping\n\n") == b": ping\n"
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    assert between(ping) == ping


@pytest.mark.parametrize("text", ["", "3", "x:3", f"{TAG}:", f"{TAG}:-1", f"{TAG}:1e3", f"{TAG}:1:2", TAG])
def test_place_that_is_none_of_ours_is_refused(text: str) -> None:
    """Only ids that the router gave are understood."""
    with pytest.raises(InvalidRequest):
        place_of(text)
