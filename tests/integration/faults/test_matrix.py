"""Each fault, in each dialect, for each kind of client, alone and with somebody else to ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal

import pytest

from tests.integration.faults.clients import CLIENTS
from tests.integration.faults.dialects import COMPLETION_TOKENS, PROMPT_TOKENS, TEXT
from tests.integration.faults.faults import FAULTS, Fate
from tests.integration.faults.matrix import SECRET, Record, Run, run

_KINDS = [
    pytest.param(name, stream, id=f"{name}-{'stream' if stream else 'whole'}")
    for name, fault in FAULTS.items()
    for stream in (False, True)
    if (fault.stream if stream else fault.whole) is not None
]
_COST = Decimal(PROMPT_TOKENS + 2 * COMPLETION_TOKENS) / 1_000_000
_MOST_ATTEMPTS = 3


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The matrix, run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTS_KEY", SECRET)
        yield asyncio.run(run(tmp_path_factory.mktemp("faults")))


def _fate(record: Record) -> Fate:
    fate = FAULTS[record.cell.fault].fate(record.cell.dialect, record.cell.stream)
    assert fate is not None
    return fate


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _saw(record: Record, seen: str) -> None:
    """Check what the client saw."""
    read = record.read
    assert read.problems == [], record.body[:500]
    if seen == "answer":
        assert (record.status, read.error, read.ended) == (200, None, True), record.body[:500]
        assert _squeezed(read.text) == _squeezed(TEXT)
    elif seen == "said":
        assert (record.status, read.error, read.ended) == (200, None, True), record.body[:500]
        assert TEXT.startswith(read.text)
    elif seen == "cut":
        assert (record.status, read.ended) == (200, False), record.body[:500]
        assert TEXT.startswith(read.text)
        assert read.error == CLIENTS[record.cell.client].code("stream_interrupted", 200)
    else:
        status, code = seen.split()
        assert record.status == CLIENTS[record.cell.client].status(int(status)), record.body[:500]
        # What is passed on is told in the backend's own words.
        assert code == "None" or read.error == CLIENTS[record.cell.client].code(code, record.status)
        assert record.headers["content-type"].startswith("application/json")


def _billed(record: Record, seen: str) -> None:
    """Check what was written down: one row, with the one answer that was delivered."""
    (row,) = record.rows
    assert CLIENTS[record.cell.client].status(row["status"]) == record.status
    if seen == "answer":
        assert row["error"] is None
        told = (row["prompt_tokens"], row["completion_tokens"], row["usage_source"])
        assert told == (PROMPT_TOKENS, COMPLETION_TOKENS, "reported")
        assert Decimal(row["cost_usd"]) == _COST
    elif seen in ("cut", "said"):
        assert row["error"] == ("stream_interrupted" if seen == "cut" else None)
        assert row["completion_tokens"] > 0
        assert Decimal(row["cost_usd"]) > 0
    else:
        assert (row["completion_tokens"], row["cost_usd"]) == (None, None)
        assert seen.endswith("None") or row["error"] == seen.split()[1]


@pytest.mark.parametrize(("name", "stream"), _KINDS)
def test_fault_alone(whole_run: Run, name: str, stream: bool) -> None:
    """With nobody else to ask, the client is told what went wrong, and pays for what it got."""
    records = _records(whole_run, name, stream, paired=False)
    for record in records:
        fate = _fate(record)
        _saw(record, fate.alone)
        _billed(record, fate.alone)
        assert record.sick in _tries(record, fate.tries), record.cell
        assert record.well == 0


@pytest.mark.parametrize(("name", "stream"), _KINDS)
def test_fault_with_a_healthy_candidate(whole_run: Run, name: str, stream: bool) -> None:
    """With somebody else to ask, the client gets one whole answer, or is told of its own mistake at once."""
    for record in _records(whole_run, name, stream, paired=True):
        fate = _fate(record)
        # A stream in the client's own dialect is passed on as it comes: nobody can go on with it.
        native = record.cell[1:3] == ("anthropic", "messages")
        paired = "same" if native and fate.paired == "joined" else fate.paired
        seen = fate.alone if paired == "same" else "answer"
        _saw(record, seen)
        _billed(record, seen)
        assert record.sick in _tries(record, 1), record.cell
        assert record.well == (0 if paired == "same" else 1), record.cell
        if paired == "second":
            assert record.headers["x-router-backend"] == "well"


def _tries(record: Record, tries: int) -> range:
    """Return how many requests the faulty backend may have seen, for so many attempts."""
    if FAULTS[record.cell.fault].place:
        return range(1)
    # One that went out on a kept connection that closed without a byte goes out once more, on a fresh one.
    return range(tries, 1 + tries * (2 if record.cell.fault == "closed" else 1))


def _records(whole: Run, name: str, stream: bool, *, paired: bool) -> list[Record]:
    found = [
        record
        for cell, record in whole.records.items()
        if (cell.fault, cell.stream, cell.paired) == (name, stream, paired)
    ]
    assert found
    return found


def test_nothing_leaks(whole_run: Run) -> None:
    """No answer, no header and no file holds a backend's key, its address or a stack trace."""
    canaries = (SECRET.encode(), whole_run.address.encode(), b"Traceback", b'File "')
    for record in whole_run.records.values():
        told = record.body + str(record.headers).encode()
        assert [word for word in canaries if word in told] == [], record.cell
    assert SECRET.encode() not in whole_run.files


def test_attempts_are_bounded(whole_run: Run) -> None:
    """No request makes more attempts than its budget allows, and its one row knows of each."""
    for record in whole_run.records.values():
        (row,) = record.rows
        assert 1 <= len(json.loads(row["attempts"])) <= _MOST_ATTEMPTS, record.cell


def test_nothing_stays_open(whole_run: Run) -> None:
    """After the last answer no exchange with a backend is open and no request is under way."""
    assert (whole_run.busy, whole_run.in_flight) == (0, 0)
