"""UsageWriter: one row per request, durable at once, committed in groups by one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from router.registry.journal import Journal, orphans, read_lines
from router.registry.store import RegistryStore, StoreError
from router.registry.usage_rows import UsageRow, usage_row, write_row
from router.types import Outcome

__all__ = ["UsageWriter"]

_BATCH = 1000
_MANY = 25
_PATIENCE = 5
_log = logging.getLogger(__name__)


class UsageWriter:
    """Takes outcomes (a `UsageSink`) and gets them into the `usage` table, each once.

    `write` appends the row to a journal and returns; a thread commits what has come together.
    While the database is away rows wait in memory up to `capacity`, and beyond it in the journal
    alone. What a killed process left in its journal is committed at the next start.

    Args:
        store: The registry.
        stem: The journals are files next to this path, which need not exist itself.
        interval: Seconds that a row waits for others to share its commit; five times as many under load, where
            each commit costs more than the rows in it.
        retry: Seconds between two tries while the database is away.
        capacity: Rows kept in memory.
        farewell: Seconds that `close` goes on trying; what is left then waits in the journal for the next start,
            which in a container may never come.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        store: RegistryStore,
        stem: Path,
        *,
        interval: float = 0.05,
        retry: float = 1.0,
        capacity: int = 20_000,
        farewell: float = 0,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._stem = Path(stem).absolute()
        self._interval = interval
        self._retry = retry
        self._capacity = capacity
        self._farewell = farewell
        self._clock = clock
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._idle = False
        """Whether the thread sleeps until a row comes: only then is it worth waking."""
        self._queue: list[UsageRow] = []
        self._spilled = False
        """Whether the journal holds rows that the queue had no room for."""
        self._batch: list[UsageRow] = []
        self._batch_spilled = False
        self._pause = interval
        self._replayed = False
        self._stopping = False
        self._last_try = 0.0
        self._closed = False
        self._complaints: set[str] = set()
        self._journal = self._open_journal()
        self._thread = threading.Thread(target=self._run, name="usage-writer", daemon=True)
        self._thread.start()

    def write(self, outcome: Outcome) -> None:
        """Accept one outcome; it survives the end of this process from here on. Never raises."""
        try:
            row = usage_row(outcome, self._clock())
            line = write_row(row)
            with self._lock:
                self._accept(row, line)
        except Exception:  # noqa: BLE001 - a request never fails over its accounting
            _log.exception("a usage row was lost", extra={"fields": {"request_id": outcome.request_id}})

    def _accept(self, row: UsageRow, line: bytes) -> None:
        kept = False
        if self._closed:
            raise RuntimeError("the usage writer is closed")
        if self._journal is not None:
            try:
                self._journal.append(line)
                kept = True
            except OSError as error:
                self._complain("journal", f"The usage journal cannot be written: {error.strerror or error}.")
        # Without a journal there is nowhere else for a row to go, so memory takes it whatever its bound.
        if len(self._queue) < self._capacity or not kept:
            self._queue.append(row)
        else:
            self._spilled = True
        if self._idle:
            self._idle = False
            self._work.notify()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything accepted so far, and everything left by the dead, is committed.

        Returns:
            False where that took longer than `timeout` seconds.
        """
        with self._lock:
            return self._settled.wait_for(lambda: self._replayed and not self._pending(), timeout)

    def close(self) -> None:
        """Commit what is left and stop. Rows that cannot be committed stay in the journal."""
        with self._lock:
            if not self._stopping:
                self._last_try = time.monotonic() + self._farewell
            self._stopping = True
            self._work.notify_all()
        self._thread.join()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            left = self._pending()
            if self._journal is not None:
                self._journal.close(keep=left)
            elif left:
                _log.error("usage rows were lost", extra={"fields": {"rows": len(self._queue) + len(self._batch)}})

    # --- the thread -------------------------------------------------------------------------------

    def _pending(self) -> bool:
        return bool(self._queue or self._batch or self._spilled or self._batch_spilled)

    def _run(self) -> None:
        while True:
            done = self._turn()
            with self._lock:
                self._settled.notify_all()
                if self._stopping and (not self._pending() or (not done and time.monotonic() >= self._last_try)):
                    return
                if not done:
                    # Being told to stop cuts the wait short, once.
                    self._work.wait_for((lambda: False) if self._stopping else (lambda: self._stopping), self._retry)
                    continue
                self._idle = not self._pending()
                self._work.wait_for(lambda: self._stopping or self._pending())
                self._idle = False
                self._work.wait_for(lambda: self._stopping, self._pause)

    def _turn(self) -> bool:
        """Commit what there is; return False to try again later."""
        try:
            if not self._replayed:
                self._replay()
            self._commit()
        except StoreError as error:
            self._complain("store", f"Usage rows wait for the registry. {error}")
            return False
        except Exception:  # noqa: BLE001 - the thread outlives whatever a damaged file does
            _log.exception("usage rows could not be written")
            return False
        if "store" in self._complaints:
            _log.info("usage rows are written again")
        self._complaints.discard("store")
        return True

    def _commit(self) -> None:
        with self._lock:
            if not self._pending():
                return
            if not (self._batch or self._batch_spilled):
                self._batch, self._queue = self._queue, []
                self._batch_spilled, self._spilled = self._spilled, False
                if self._journal is not None:
                    self._journal.swap()
                self._pause = self._interval * (_PATIENCE if len(self._batch) >= _MANY else 1)
        if self._batch_spilled and self._journal is not None:
            self._insert(self._journal.resting())
        self._insert(self._batch)
        if self._journal is not None:
            self._journal.empty_resting()
        with self._lock:
            self._batch, self._batch_spilled = [], False

    def _replay(self) -> None:
        for path in orphans(self._stem):
            self._insert(read_lines(path))
            path.unlink(missing_ok=True)
        self._replayed = True

    def _insert(self, rows: Iterable[UsageRow]) -> None:
        source = iter(rows)
        while chunk := list(islice(source, _BATCH)):
            try:
                self._store.insert_usage(chunk)
            except StoreError as error:
                if not error.about_rows:
                    raise
                self._insert_singly(chunk)

    def _insert_singly(self, rows: list[UsageRow]) -> None:
        """Keep one row that the database refuses from holding up the others."""
        for row in rows:
            try:
                self._store.insert_usage([row])
            except StoreError as error:
                if not error.about_rows:
                    raise
                _log.exception("a usage row was refused", extra={"fields": {"request_id": row.request_id}})

    def _open_journal(self) -> Journal | None:
        try:
            self._stem.parent.mkdir(parents=True, exist_ok=True)
            return Journal(self._stem)
        except OSError as error:
            self._complain("journal", f"There is no usage journal: {error.strerror or error}.")
            return None

    def _complain(self, about: str, reason: str) -> None:
        """Log a reason once, until what it is about works again."""
        if about not in self._complaints:
            self._complaints.add(about)
            _log.warning("usage rows are at risk", extra={"fields": {"reason": reason}})
