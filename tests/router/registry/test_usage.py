"""UsageWriter: each outcome becomes one row, whatever happens to the database or the process."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.registry.journal import Journal, orphans, read_lines
from router.registry.store import RegistryStore, open_store
from router.registry.usage import UsageWriter
from shared.types import Usage
from tests.router.registry.outcomes import ids, outcome, rows


def journals(path: Path) -> list[Path]:
    """Return the journals that are there."""
    return sorted(path.parent.glob("*.usage-*"))


@contextmanager
def writing(store: RegistryStore, path: Path, **options: Any) -> Iterator[UsageWriter]:
    """Open a writer that waits for nothing, and close it."""
    writer = UsageWriter(store, path, **{"interval": 0, "retry": 0.01, **options})
    try:
        yield writer
    finally:
        writer.close()


def test_write_keeps_everything(store: RegistryStore, path: Path, place: Path | str) -> None:
    """Every field of an outcome has its column, money to the digit."""
    with writing(store, path, clock=lambda: 42) as writer:
        writer.write(outcome("r1"))
        assert writer.flush(30)
    (row,) = rows(place)
    attempts = row.pop("attempts")
    assert row == {
        "request_id": "r1",
        "decision_id": "dec_1",
        "caller": "key_1",
        "caller_name": "a",
        "endpoint": "chat",
        "asked": "auto",
        "policy": "auto",
        "model": "m",
        "deployment": "m@b",
        "backend": "b",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cached_tokens": 2,
        "reasoning_tokens": 1,
        "usage_source": "reported",
        "cost_usd": "0.00000125",
        "status": 200,
        "error": None,
        "stream": 1,
        "cache": "miss",
        "first_token_ms": 12.5,
        "duration_ms": 20.0,
        "overhead_ms": 0.4,
        "created_at": 42,
    }
    assert "m@b" in str(attempts)


def test_write_of_a_request_without_an_answer(store: RegistryStore, path: Path, place: Path | str) -> None:
    """What is not known is null, and no cost is not a cost of 0."""
    with writing(store, path) as writer:
        writer.write(
            outcome("r1", deployment=None, usage=None, cost_usd=None, status=503, error="no_candidate", attempts=())
        )
    (row,) = rows(place)
    assert (row["model"], row["prompt_tokens"], row["cost_usd"], row["error"]) == (None, None, None, "no_candidate")


def test_close_commits_and_leaves_no_journal(store: RegistryStore, path: Path, place: Path | str) -> None:
    """Closing writes what is left; the journal has then done its work."""
    with writing(store, path, interval=3600) as writer:
        for number in range(50):
            writer.write(outcome(f"r{number:02}"))
        assert journals(path)
    writer.close()
    assert len(ids(place)) == 50
    assert journals(path) == []


def test_write_after_close_is_told(store: RegistryStore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A late outcome raises nothing; the log says that it is lost."""
    with writing(store, path) as writer:
        pass
    writer.write(outcome("late"))
    assert "a usage row was lost" in caplog.text


@given(st.lists(st.sampled_from(["write", "twice", "flush", "restart"]), max_size=12), st.integers(1, 3))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_outcome_is_one_row(
    store: RegistryStore, path: Path, place: Path | str, steps: list[str], capacity: int
) -> None:
    """Through repetitions, restarts and a memory too small for them, each request is one row."""
    written: set[str] = set(ids(place))
    writer = UsageWriter(store, path, interval=0, capacity=capacity)
    for step in steps:
        if step == "flush":
            assert writer.flush(30)
            assert set(ids(place)) == written
        elif step == "restart":
            writer.close()
            writer = UsageWriter(store, path, interval=0, capacity=capacity)
        else:
            request_id = f"r{len(written):05}"
            for _ in range(2 if step == "twice" else 1):
                writer.write(outcome(request_id))
            written.add(request_id)
    writer.close()
    assert ids(place) == sorted(written)


def test_writes_from_many_threads(store: RegistryStore, path: Path, place: Path | str) -> None:
    """Writers on several threads lose nothing, and the journal keeps no more than is pending."""
    with writing(store, path, interval=0.001) as writer:
        threads = [
            threading.Thread(target=lambda n=n: [writer.write(outcome(f"r{n}-{i}")) for i in range(200)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert writer.flush(30)
        assert [journal.stat().st_size for journal in journals(path)] == [0, 0]
    assert len(ids(place)) == 800


def test_the_thread_sleeps_until_a_row_comes(store: RegistryStore, path: Path, place: Path | str) -> None:
    """Rows come in bursts with the thread asleep in between; each burst is committed, the last one too."""
    with writing(store, path) as writer:
        for burst in range(20):
            for number in range(burst + 1):
                writer.write(outcome(f"r{burst:02}-{number:02}"))
            assert writer.flush(30)
            assert len(ids(place)) == (burst + 1) * (burst + 2) // 2


def test_rows_wait_for_a_vanished_database(store: RegistryStore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the file is away rows are kept, in memory and beyond it in the journal; it is told once."""
    caplog.set_level(logging.INFO)
    with writing(store, path, capacity=3) as writer:
        assert writer.flush(30)
        path.rename(path.with_name("aside"))
        for number in range(10):
            writer.write(outcome(f"r{number}"))
        assert not writer.flush(0.05)
        path.with_name("aside").rename(path)
        assert writer.flush(30)
    assert len(ids(path)) == 10
    told = [record.message for record in caplog.records if record.name.startswith("router.")]
    assert told == ["usage rows are at risk", "usage rows are written again"]


def test_close_without_a_database_keeps_the_journal(store: RegistryStore, path: Path) -> None:
    """Rows that cannot be committed at the end are committed at the next start."""
    with writing(store, path) as writer:
        assert writer.flush(30)
        path.rename(path.with_name("aside"))
        writer.write(outcome("r1"))
    assert journals(path)
    path.with_name("aside").rename(path)
    with writing(store, path) as writer:
        assert writer.flush(30)
        assert len(journals(path)) == 2
    assert ids(path) == ["r1"]


def test_a_refused_row_does_not_hold_up_the_others(
    store: RegistryStore, path: Path, place: Path | str, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that no database can take is dropped loudly; its neighbours are written."""
    with writing(store, path, interval=3600) as writer:
        writer.write(outcome("r1"))
        writer.write(outcome("huge", usage=Usage(2**70)))
        writer.write(outcome("r2"))
    assert ids(place) == ["r1", "r2"]
    assert "a usage row was refused" in caplog.text


def test_a_journal_that_cannot_be_written(
    store: RegistryStore, path: Path, place: Path | str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a place for a journal rows are written all the same, and the risk is told."""
    file = path.with_name("file-not-folder")
    file.parent.mkdir(exist_ok=True)
    file.touch()
    with writing(store, file / "usage") as writer:
        writer.write(outcome("r1"))
    assert ids(place) == ["r1"]
    assert len([record for record in caplog.records if record.message == "usage rows are at risk"]) == 1


def test_kill_loses_no_row(path: Path, place: Path | str) -> None:
    """After `kill -9` in the middle of writing, every outcome that `write` had taken is committed at the next start."""
    program = [sys.executable, "-m", "tests.router.registry.usage_victim", str(place), str(path)]
    victim = subprocess.Popen(program, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE)
    assert victim.stdout is not None
    accepted = [victim.stdout.readline() for _ in range(300)]
    victim.send_signal(signal.SIGKILL)
    accepted += victim.stdout.readlines()
    victim.stdout.close()
    victim.wait()
    names = {line.decode().strip() for line in accepted if line.endswith(b"\n")}
    assert len(names) >= 300
    store = open_store(place)
    with writing(store, path) as writer:
        assert writer.flush(30)
    store.close()
    found = ids(place)
    assert names <= set(found)
    assert len(found) - len(names) <= 1  # the one between being taken and being told
    assert journals(path) == []


# --- the journal ------------------------------------------------------------------------------------


def test_journal_survives_torn_lines(tmp_path: Path) -> None:
    """A line that a crash has cut spoils neither the lines before it nor those after."""
    path = tmp_path / "m.db.usage-1-0"
    path.write_bytes(b'{"request_id":"a"}\n{"request_id":"b"\n\n[1]\n{"request_id":"c"}\n{"request_')
    assert [row.request_id for row in read_lines(path)] == ["a", "c"]


def test_journal_of_another_version(
    store: RegistryStore, path: Path, place: Path | str, caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown fields are left out; a row of which no sense can be made is told and holds nothing up."""
    path.parent.mkdir(exist_ok=True)
    path.with_name("models.db.usage-1-0").write_bytes(
        b'{"request_id":"odd","prompt_tokens":{"a":1}}\n'
        b'{"request_id":"bare"}\n'
        b'{"request_id":"new","caller":"k","caller_name":"n","endpoint":"chat","asked":"m","status":200,"stream":true,'
        b'"cache":"off","attempts":[],"duration_ms":1,"overhead_ms":0.1,"created_at":5,"colour":"red"}\n'
    )
    with writing(store, path) as writer:
        assert writer.flush(30)
    assert ids(place) == ["new"]
    told = [record.message for record in caplog.records if record.name.startswith("router.")]
    assert told == ["a usage row was refused"] * 2


def test_journal_of_a_living_process_is_no_orphan(tmp_path: Path) -> None:
    """Only journals that nobody holds are taken over."""
    stem = tmp_path / "m[1].db"
    journal = Journal(stem)
    journal.append(b'{"request_id":"a"}')
    assert list(orphans(stem)) == []
    journal.close(keep=True)
    assert len(list(orphans(stem))) == 2
