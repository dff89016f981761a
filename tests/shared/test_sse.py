"""Server-sent events: the same events under any byte split of any stream."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.sse import DONE, EventTooLarge, SSEEvent, SSEReader, encode_event
from tests.support.properties import splits, text

_ends = st.sampled_from(["\n", "\r\n", "\r"])
_lines = st.one_of(
    text.map(lambda value: "data:" + re.sub(r"[\r\n]", "", value)),
    text.map(lambda value: "data: " + re.sub(r"[\r\n]", "", value)),
    text.map(lambda value: ":" + re.sub(r"[\r\n]", "", value)),
    st.sampled_from(["event: ping", "event:x", "id: 7", "retry: 10", "data", "unknown: y", "data:  two spaces", ""]),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Any stream: each line with an end of its own, a BOM or none, finished or not."""
    bom = b"\xef\xbb\xbf" if draw(st.booleans()) else b""
    lines = draw(st.lists(st.tuples(_lines, _ends), max_size=12))
    return bom + "".join(line + end for line, end in lines).encode()


def reference(stream: bytes) -> list[tuple[bytes | None, str | None]]:
    """The events of a stream, by the letter of the standard; comments count as events without data."""
    if stream.startswith(b"\xef\xbb\xbf"):
        stream = stream[3:]
    events: list[tuple[bytes | None, str | None]] = []
    data: list[bytes] = []
    event, touched = None, False
    *lines, _unfinished = re.split(rb"\r\n|\n|\r", stream)
    for line in lines:
        if not line:
            if touched:
                events.append((b"\n".join(data) if data else None, event))
            data, event, touched = [], None, False
            continue
        touched = True
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value.decode()
    return events


def read(pieces: list[bytes]) -> list[SSEEvent]:
    """The events of a stream that comes in pieces, its last CR settled."""
    reader = SSEReader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    rest = reader.close()
    if rest.endswith(b"\r"):  # whether CRLF or CR, only the next byte can tell
        events += SSEReader().feed(rest + b":")
    return events


@given(st.data(), streams())
def test_reader_gives_the_standards_events_under_any_split(data: st.DataObject, stream: bytes) -> None:
    """However the bytes are cut, the events are those of the standard."""
    assert [(event.data, event.event) for event in read(data.draw(splits(stream)))] == reference(stream)


@given(streams())
@example(b"data: a\r\n\r\ndata: b\r\r\ndata: c\n\r\n\n\rdata: d\r\n\n")
def test_reader_gives_the_same_bytes_whole_and_byte_by_byte(stream: bytes) -> None:
    """`raw` too does not depend on the split."""
    single = [stream[index : index + 1] for index in range(len(stream))]
    assert read(single) == read([stream])
    assert [(event.data, event.event) for event in read(single)] == reference(stream)


@given(streams())
def test_reader_loses_nothing_but_empty_lines(stream: bytes) -> None:
    """The raw bytes of the events, and what is left, are the stream without BOM and empty events."""
    reader = SSEReader()
    events = reader.feed(stream)
    rest = reader.close()
    body = stream.removeprefix(b"\xef\xbb\xbf")
    position = 0
    for part in (*(event.raw for event in events), rest):
        found = body.index(part, position)
        assert not body[position:found].strip(b"\r\n")
        position = found + len(part)
    assert not body[position:].strip(b"\r\n")


def test_reader_passes_well_formed_streams_through() -> None:
    """The raw bytes of a plain stream are the stream."""
    stream = b': hello\n\ndata: {"a": 1}\n\nevent: x\ndata: y\n\n' + DONE
    assert b"".join(event.raw for event in SSEReader().feed(stream)) == stream


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data:x\n\n", b"x"),
        (b"data: x\r\n\r\n", b"x"),
        (b"data: x\r\rdata", b"x"),
        (b"data:  x \n\n", b" x "),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data\n\n", b""),
        (b"data:\ndata:\n\n", b"\n"),
        (b"\xef\xbb\xbfdata: x\n\n", b"x"),
        (b": only a comment\n\n", None),
        (b"database: no\n\n", None),
        ("data: é✓\n\n".encode(), "é✓".encode()),
    ],
)
def test_reader_reads_every_spelling(stream: bytes, expected: bytes | None) -> None:
    """Each way of writing data that the standard allows is read as it says."""
    assert [event.data for event in SSEReader().feed(stream)] == [expected]


def test_reader_delivers_an_event_with_its_last_byte() -> None:
    """An event that ends in LF does not wait for the next one."""
    reader = SSEReader()
    assert reader.feed(b"data: a\r\n\r") == []
    assert [event.data for event in reader.feed(b"\n")] == [b"a"]
    assert reader.feed(b"data: b\n") == []
    assert [event.data for event in reader.feed(b"\n")] == [b"b"]


def test_reader_holds_back_what_is_not_finished() -> None:
    """What is left at the end is handed out as it is, once."""
    reader = SSEReader()
    assert reader.feed(b"data: cut") == []
    assert reader.close() == b"data: cut"
    assert reader.close() == b""


@pytest.mark.parametrize("finished", [b"", b"\n\n"], ids=["unfinished", "finished"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_reader_refuses_an_event_that_is_too_large(size: int, finished: bytes) -> None:
    """An event over the limit is refused, however it is cut; one at the limit is read."""
    largest = b"data: " + b"x" * 92
    assert len(SSEReader(limit=100).feed(largest + b"\n\n")) == 1
    stream = largest + b"xxx" + finished
    reader = SSEReader(limit=100)
    with pytest.raises(EventTooLarge):
        for start in range(0, len(stream), size):
            reader.feed(stream[start : start + size])


def test_reader_limits_events_not_streams() -> None:
    """Many events may exceed together what one may not."""
    reader = SSEReader(limit=100)
    assert sum(len(reader.feed(b"data: x\n\n" * 10)) for _ in range(100)) == 1000


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")), st.none() | st.just("ping"))
def test_encode_event_is_read_back(value: str, event: str | None) -> None:
    """What is written is read again, line breaks and all."""
    data = value.encode()
    assert [(read.data, read.event) for read in SSEReader().feed(encode_event(data, event))] == [(data, event)]


def test_encode_event_writes_one_line_for_compact_json() -> None:
    """The common case is one `data:` line and an empty line."""
    data = json.dumps({"a": "b\nc"}).encode()
    assert encode_event(data) == b"data: " + data + b"\n\n"
