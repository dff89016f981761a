"""The load generator counts an answer as good only if it is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.bench.native import Tools
from tests.scripts.bench.support import WORDS, answering, completion, events, in_chunks, load, with_length

WHOLE = completion()
HEAD = b"HTTP/1.1 200 OK\r\n"

GOOD = {
    "with a length": (with_length(WHOLE), "0", True),
    "in chunks": (in_chunks(WHOLE[:50], WHOLE[50:]), "0", True),
    "up to the close": (HEAD + b"\r\n" + WHOLE.encode(), "0", False),
    "closing by word": (with_length(WHOLE).replace(b"\r\n", b"\r\nConnection: close\r\n", 1), "0", False),
    "after an interim answer": (b"HTTP/1.1 103 Early Hints\r\n\r\n" + with_length(WHOLE), "0", True),
    "written anew": (with_length(json.dumps(json.loads(WHOLE), indent=3)), "0", True),
    "stream": (in_chunks(*events(0, 1, 2)), "3", True),
    "stream in odd pieces": (in_chunks(*(c for c in "".join(events(0, 1, 2)))), "3", True),
    "stream with comments": (in_chunks(": hello\n\n", *events(0, 1), ": bye\n\n"), "2", True),
    "stream with CRLF": (in_chunks("".join(events(0, 1)).replace("\n", "\r\n")), "2", True),
}
BAD = {
    "refused": (with_length('{"error": {}}', "503 Service Unavailable"), "0", True, "status"),
    "another letter": (with_length(completion(WORDS.replace("whole", "whale"))), "0", True, "content"),
    "other words": (with_length(completion("hello")), "0", True, "content"),
    "empty": (with_length(""), "0", True, "content"),
    "cut JSON": (with_length(WHOLE[:-2]), "0", True, "content"),
    "two answers": (with_length(WHOLE + WHOLE), "0", True, "content"),
    "more than its length": (with_length(WHOLE, length=len(WHOLE) - 1), "0", True, "content"),
    "less than its length": (with_length(WHOLE, length=len(WHOLE) + 1), "0", False, "connection"),
    "chunks without an end": (in_chunks(WHOLE, end=""), "0", False, "connection"),
    "broken chunks": (in_chunks(WHOLE, end="zz\r\n"), "0", True, "connection"),
    "no HTTP": (b"hello\r\n\r\n", "0", False, "status"),
    "no answer": (b"", "0", False, "connection"),
    "stream, a chunk lost": (in_chunks(*events(0, 2, 3)), "3", True, "content"),
    "stream, a chunk doubled": (in_chunks(*events(0, 1, 1)), "3", True, "content"),
    "stream, out of order": (in_chunks(*events(1, 0, 2)), "3", True, "content"),
    "stream, too short": (in_chunks(*events(0, 1)), "3", True, "content"),
    "stream, too long": (in_chunks(*events(0, 1, 2, 3)), "3", True, "content"),
    "stream without [DONE]": (in_chunks(*events(0, 1, 2, done=False)), "3", True, "content"),
    "stream, its last line cut": (in_chunks("".join(events(0, 1, 2))[:-2]), "3", True, "content"),
    "stream with an error": (in_chunks('data: {"error": {}}\n\n', *events(0, 1, 2)), "3", True, "content"),
    "stream with garbage": (in_chunks("hello\n\n", *events(0, 1, 2)), "3", True, "content"),
    "stream, garbled event": (in_chunks(*events(0, 1, 2)).replace(b"}}]}", b"}]]}", 1), "3", True, "content"),
    "JSON for a stream": (with_length(WHOLE), "3", True, "content"),
    "a stream for JSON": (in_chunks(*events(0, 1, 2)), "0", True, "content"),
}


@pytest.mark.parametrize("case", GOOD)
async def test_load_counts_a_whole_answer_as_good(case: str, tools: Tools, tmp_path: Path) -> None:
    """However it is framed and split."""
    answer, chunks, keep = GOOD[case]
    async with answering(answer, keep=keep) as port:
        told = await load(tools, port, tmp_path, "-n", "4", "-c", "2", "-s", chunks, "-d", "20")
    assert (told["good"], told["errors"], told["first_error"]) == (4, 0, "")
    assert told["chunks"] == 4 * int(chunks)
    assert told["latency_us"]["count"] == 4


@pytest.mark.parametrize("case", BAD)
async def test_load_counts_a_damaged_answer_as_an_error(case: str, tools: Tools, tmp_path: Path) -> None:
    """Told by kind, and never as a good one; a connection that broke is not used again."""
    answer, chunks, keep, kind = BAD[case]
    async with answering(answer, keep=keep) as port:
        told = await load(tools, port, tmp_path, "-n", "3", "-c", "1", "-s", chunks, "-d", "20")
    assert (told["good"], told["errors"], told["issued"]) == (0, 3, 3), told
    assert told["error_kinds"][kind] == 3, told
    assert told["first_error"]
    assert told["latency_us"] is None


async def test_load_does_not_wait_for_ever(tools: Tools, tmp_path: Path) -> None:
    """An answer that does not come is an error once the grace is over."""
    async with answering(b"") as port:
        told = await load(tools, port, tmp_path, "-c", "2", "-d", "0.05", "-g", "0.05")
    assert (told["good"], told["error_kinds"]["timeout"]) == (0, 2)


async def test_load_gives_up_where_nothing_works(tools: Tools, tmp_path: Path) -> None:
    """A thousand errors are enough."""
    told = await load(tools, 1, tmp_path, "-c", "4", "-d", "60")
    assert 1000 <= told["errors"] <= 1004
    assert told["error_kinds"]["connection"] == told["errors"]


async def test_load_keeps_the_rate_of_an_open_loop(tools: Tools, tmp_path: Path) -> None:
    """What is due is asked, however few connections there are."""
    async with answering(with_length(WHOLE)) as port:
        told = await load(tools, port, tmp_path, "-c", "1", "-d", "0.2", "-r", "500")
    assert (told["good"], told["errors"]) == (100, 0)
