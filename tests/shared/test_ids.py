"""Ids: unlike each other, and close to those of the same moment."""

from __future__ import annotations

import re
import threading

from shared.ids import IdSource


def test_ids_are_unique_and_of_one_form() -> None:
    """Through many batches every id is new, and all are the prefix with 24 hex digits."""
    source = IdSource("req_")
    made = [source.make() for _ in range(5000)]
    assert len(set(made)) == 5000
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", name) for name in made)


def test_ids_of_one_moment_lie_side_by_side() -> None:
    """Ids sort by the second in which their batch was made; a clock beyond 32 bits spoils nothing."""
    moments = iter([1_000.9, 2_000.0, 2.0**33 + 5])
    source = IdSource("dec_", lambda: next(moments))
    made = [source.make() for _ in range(3 * 128)]
    assert [name[4:12] for name in made[::128]] == ["000003e8", "000007d0", "00000005"]
    assert max(made[:128]) < min(made[128:256])


def test_ids_are_unique_across_threads() -> None:
    """Threads that share a source never get the same id, nor do two sources of one moment."""
    made: list[str] = []
    source, other = IdSource("x", lambda: 1.0), IdSource("x", lambda: 1.0)
    threads = [
        threading.Thread(target=lambda s=each: made.extend([s.make() for _ in range(2000)]))
        for each in (source, source, source, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8000
