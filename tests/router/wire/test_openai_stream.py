"""OpenAI streams as wholes: what depends on more than one event."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.wire.decoders import EventStream
from router.wire.openai import ChatStream
from shared.errors import UpstreamUnavailable
from shared.sse import DONE, SSEEvent
from tests.router.wire.test_openai import USAGE, data_of, event
from tests.support.upstream import chunk


@pytest.mark.parametrize("asked", [True, False])
def test_stream_tells_usage_beside_a_choice_in_an_event_of_its_own(asked: bool) -> None:
    """Once, behind the last choice, without choices, and only where it was asked for."""
    stream = ChatStream(None, usage_asked=asked)
    raws = [
        raw.raw
        for data in (chunk({"content": "x"}), chunk({}, "stop", usage=USAGE))
        for raw in stream.feed(event(data))
    ]
    raws += [raw.raw for raw in stream.feed(SSEEvent(DONE, b"[DONE]"))]
    told = [json.loads(raw[6:]) for raw in raws if raw and raw != DONE]
    assert [data for data in told if data.get("usage")] == ([{**chunk(None), "usage": USAGE}] if asked else [])
    assert raws[-1] == DONE


def test_chat_stream_that_is_nothing_but_its_end_is_no_answer() -> None:
    """`[DONE]` without a word or a finish reason is a backend that failed and says otherwise."""
    done = SSEEvent(DONE, b"[DONE]")
    with pytest.raises(UpstreamUnavailable, match="without an answer"):
        ChatStream(None, usage_asked=False).feed(done)
    for data in (chunk({}, "stop"), chunk({"content": "x"})):
        stream = ChatStream(None, usage_asked=False)
        stream.feed(event(data))
        assert stream.feed(done)[0].done


def test_chat_stream_whose_connection_breaks_behind_its_finish_is_whole() -> None:
    """All that is missing then is the end, which can be told; where more is missing nothing is."""
    broken, whole = EventStream(ChatStream(None, usage_asked=False)), EventStream(ChatStream(None, usage_asked=False))
    broken.feed(event(chunk({"content": "x"})).raw)
    with pytest.raises(UpstreamUnavailable):
        broken.lost()
    whole.feed(event(chunk({"content": "x"})).raw + event(chunk({}, "stop")).raw)
    assert [told.raw for told in whole.lost()] == [DONE]
    assert whole.done


# --- pieces of calls --------------------------------------------------------------------------


def calls_of(*pieces: dict[str, Any]) -> list[bytes]:
    """The events for pieces of calls, each of one chunk."""
    stream = ChatStream(None, usage_asked=False)
    return [told.raw for piece in pieces for told in stream.feed(event(chunk({"tool_calls": [piece]})))]


def piece_of(arguments: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    """A piece of a call."""
    return {**more, "function": {"arguments": arguments, **({} if name is None else {"name": name})}}


A, B = '{"x": 1}', '{"y": [2]}'
ODD_CALLS = {
    "no index": [
        piece_of("", "f", id="a"),
        piece_of(A),
        piece_of("", "g", id="b"),
        piece_of(B),
    ],
    "no index, ids repeated": [
        piece_of(A[:3], "f", id="a"),
        piece_of(A[3:], "f", id="a"),
        piece_of(B[:3], "g", id="b"),
        piece_of(B[3:], "g", id="b"),
    ],
    "no index, interleaved": [
        piece_of(A[:3], "f", id="a"),
        piece_of(B[:3], "g", id="b"),
        piece_of(A[3:], id="a"),
        piece_of(B[3:], id="b"),
    ],
    "one index for all": [
        piece_of(A[:3], "f", id="a", index=0),
        piece_of(A[3:], index=0),
        piece_of(B[:3], "g", id="b", index=0),
        piece_of(B[3:], index=0),
    ],
    "counted from one": [
        piece_of(A[:3], "f", id="a", index=1),
        piece_of(B[:3], "g", id="b", index=2),
        piece_of(A[3:], index=1),
        piece_of(B[3:], index=2),
    ],
    "another id in each piece": [
        piece_of(A[:3], "f", id="a", index=0),
        piece_of(A[3:], id="c", index=0),
        piece_of(B[:3], "g", id="b", index=1),
        piece_of(B[3:], id="d", index=1),
    ],
    "all anew in each piece": [
        piece_of("", "f", id="a", index=0),
        piece_of(A[:3], "f", id="c", index=0),
        piece_of(A[3:], "f", id="d", index=0),
        piece_of(B[:3], "g", id="b", index=1),
        piece_of(B[3:], "g", id="e", index=1),
    ],
    "name repeated": [
        piece_of(A[:3], "f", id="a", index=0),
        piece_of(A[3:], "f", id="a", index=0),
        piece_of(B, "g", id="b", index=1),
    ],
}


@pytest.mark.parametrize("name", ODD_CALLS)
def test_chat_stream_tells_calls_apart_for_clients_that_go_by_the_index(name: str) -> None:
    """However a server marks the pieces of its calls, they have the right index, and their id once."""
    joined: dict[int, dict[str, str]] = {}
    for raw in calls_of(*ODD_CALLS[name]):
        (piece,) = data_of(raw)["choices"][0]["delta"]["tool_calls"]
        call = joined.setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
        call["id"] += piece.get("id") or ""
        for key, value in piece["function"].items():
            call[key] += value
    assert joined == {0: {"id": "a", "name": "f", "arguments": A}, 1: {"id": "b", "name": "g", "arguments": B}}


def test_chat_stream_tells_two_calls_of_one_function_apart() -> None:
    """Behind whole arguments the same name begins another call, though all have one index."""
    pieces = [piece_of(A[:3], "f", id="a", index=0), piece_of(A[3:], index=0), piece_of(B, "f", id="b", index=0)]
    told = [data_of(raw)["choices"][0]["delta"]["tool_calls"][0] for raw in calls_of(*pieces)]
    assert [(call["index"], call.get("id")) for call in told] == [(0, "a"), (0, None), (1, "b")]


def test_chat_stream_gives_a_call_without_an_id_one() -> None:
    """Clients cannot answer a call that has none; two calls get two, and every replay the same."""
    pieces = [piece_of(A, "f", index=0), piece_of(B, "g", index=1, id="")]
    given_ids = [data_of(raw)["choices"][0]["delta"]["tool_calls"][0]["id"] for raw in calls_of(*pieces)]
    assert len({*given_ids}) == 2
    assert all(one.startswith("call_") for one in given_ids)
    assert given_ids == [data_of(raw)["choices"][0]["delta"]["tool_calls"][0]["id"] for raw in calls_of(*pieces)]


def test_chat_stream_leaves_proper_calls_as_they_are() -> None:
    """Calls that are told as the protocol has it, interleaved or not, pass byte for byte; so does what is none."""
    pieces = [
        piece_of("", "f", index=0, id="a", type="function"),
        piece_of(A[:3], index=0),
        piece_of(B[:3], "g", index=1, id="b", type="function", extra=1.50),
        piece_of(A[3:], index=0, id=None),
        piece_of(B[3:], index=1),
    ]
    written = [event(chunk({"tool_calls": [piece]})).raw for piece in pieces]
    assert calls_of(*pieces) == written
    stream = ChatStream(None, usage_asked=False)
    for odd in ("x", ["x"], [{"function": 1}], {"a": 1}, [{"index": [], "id": 5}]):
        raw = event(chunk({"tool_calls": odd})).raw
        assert [told.raw for told in stream.feed(event(chunk({"tool_calls": odd})))] == [raw]
