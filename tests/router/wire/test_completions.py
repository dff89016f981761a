"""Streams of legacy completions: strict events out, whatever the backend's spelling."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import Chunk
from router.wire.completions import CompletionStream
from router.wire.decoders import EventStream
from shared.errors import ServiceError, UpstreamUnavailable

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def text(piece: str, finish: str | None = None, index: int = 0, **more: Any) -> str:
    """Return a chunk's JSON."""
    return json.dumps({"choices": [{"index": index, "text": piece, "finish_reason": finish}], **more})


def read(raw: bytes, *, asked: bool = False, choices: int = 1, cuts: tuple[int, ...] = ()) -> list[Chunk]:
    """Return the chunks that a stream's bytes make, fed in pieces."""
    stream = EventStream(CompletionStream(None, asked, choices))
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    chunks: list[Chunk] = []
    for start, end in itertools.pairwise(edges):
        chunks += stream.feed(raw[start:end])
        if stream.failure is not None:
            raise stream.failure
    return [*chunks, *stream.end()]


@given(st.lists(st.integers(0, 10_000), max_size=8).map(tuple))
def test_stream_is_the_same_under_any_split(cuts: tuple[int, ...]) -> None:
    """However the bytes are split, the client gets the same."""
    parts = [text("é\u2028"), text("", "stop"), json.dumps({"choices": [], "usage": USAGE}), "[DONE]"]
    raw = "".join(f"data: {part}\n\n" for part in parts).encode()
    chunks = read(raw, asked=True, cuts=cuts)
    assert b"".join(chunk.raw for chunk in chunks) == raw
    assert chunks[-1].done
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [2]


def test_stream_is_written_for_the_strictest_reader() -> None:
    """CRLF, fields nobody needs, data in several lines and comments come out as plain events."""
    raw = b': hi\r\n\r\nid: 7\r\ndata:{"choices":\r\ndata:[{"index":0,"text":"a"}]}\r\n\r\n'
    raw += f"data:{text('', 'stop')}\r\n\r\ndata:[DONE]\r\n\r\n".encode()
    told = b"".join(chunk.raw for chunk in read(raw)).decode()
    lines = [line for line in told.split("\n\n") if line]
    assert lines[0] == ": "
    assert [line[:7] for line in lines[1:-1]] == ["data: {"] * 2
    assert all(json.loads(line[6:]) for line in lines[1:-1])
    assert lines[-1] == "data: [DONE]"


def test_stream_without_its_end_is_complete_once_every_choice_is() -> None:
    """A server that forgets `[DONE]` has answered when each of its texts has ended, and not before."""
    one, two = f"data: {text('a', 'stop')}\n\n", f"data: {text('b', 'length', 1)}\n\n"
    assert read(one.encode())[-1].raw.endswith(b"data: [DONE]\n\n")
    assert read((one + two).encode(), choices=2)[-1].done
    with pytest.raises(UpstreamUnavailable):
        read(one.encode(), choices=2)


def test_stream_tells_usage_beside_a_text_to_who_asked_alone() -> None:
    """Usage that comes with the last text is counted, and shown as null to who did not ask."""
    raw = f"data: {text('a', 'stop', usage=USAGE)}\n\ndata: [DONE]\n\n".encode()
    (chunk,) = read(raw)
    assert chunk.usage is not None
    assert json.loads(chunk.raw.split(b"\n\n")[0][6:])["usage"] is None
    assert read(raw, asked=True)[0].raw == raw


@pytest.mark.parametrize(
    "data",
    ['data: {"error":{"message":"x"}}', 'event: error\ndata: {"message":"x"}', "data: nonsense", "data: 5"],
)
def test_stream_with_an_error_fails(data: str) -> None:
    """An error, named so or not, and what is no JSON, are failures."""
    with pytest.raises(ServiceError):
        read(f"{data}\n\n".encode())
