"""The parent of worker processes: starts them, keeps them, ends them. Standard library only: it stays small."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone

from router.workers.link import PING, READY

__all__ = ["Supervisor"]

_TICK = 0.5
_PING_EVERY = 1.0
_STEADY = 10.0
"""Seconds after which a worker that ends has not failed at its start."""
_LONGEST_PAUSE = 10.0
_AFTER_DRAIN = 10.0
"""Seconds that a worker gets after its open answers have ended, to close what it holds."""
_FORCED = 3.0
_LEVELS = ("debug", "info", "warning", "error")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class _Worker:
    """One seat and the process on it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: subprocess.Popen[bytes] | None = None
        self.link: socket.socket | None = None
        self.ready = False
        self.started = 0.0
        self.asked: float | None = None
        """When the oldest unanswered ping went out."""
        self.pinged = 0.0
        self.given_up = False
        """Whether it has been killed and is yet to be buried."""
        self.failures = 0
        self.due = 0.0
        """When to start the next process on this seat."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended meanwhile does not hear it."""
        if self.process is not None:
            self.process.send_signal(number)


class Supervisor:
    """Keeps a number of worker processes running until it is told to stop.

    A worker that ends is replaced, the first time at once and then after pauses that grow to ten
    seconds. One whose event loop does not answer for `stall` seconds is killed and replaced. If the
    very first workers cannot start, everything ends. SIGTERM and SIGINT drain; a second one ends at once.

    Args:
        command: Makes a worker's command line of its index and its end of the link.
        workers: How many there are.
        inherited: Descriptors that every worker inherits; closed here once the end begins.
        drain: Seconds that open answers get at the end.
        stall: Seconds without a sign of life after which a worker is replaced.
        start: Seconds that a worker may take to start.
        log_level: Least level that is logged.
    """

    def __init__(
        self,
        command: Callable[[int, int], Sequence[str]],
        workers: int,
        *,
        inherited: Sequence[int] = (),
        drain: float = 30.0,
        stall: float = 30.0,
        start: float = 120.0,
        log_level: str = "info",
    ) -> None:
        self._command = command
        self._workers = [_Worker(index) for index in range(workers)]
        self._inherited = list(inherited)
        self._drain = drain
        self._stall = stall
        self._start_limit = start
        self._level = _LEVELS.index(log_level)
        self._selector = selectors.DefaultSelector()
        self._served = False
        self._signals = 0
        self._end: float | None = None
        """When workers that are still there are killed."""
        self._status = 0

    def run(self) -> int:
        """Keep the workers until told to stop; return the exit status."""
        wake, heard = socket.socketpair()
        for end in (wake, heard):
            end.setblocking(False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno())
        self._selector.register(heard, selectors.EVENT_READ)
        last = time.monotonic()
        while self._end is None or any(worker.process is not None for worker in self._workers):
            for key, _ in self._selector.select(_TICK):
                if key.fileobj is heard:
                    for number in map(signal.Signals, heard.recv(4096)):
                        if number is not signal.SIGCHLD:
                            self._told(number)
                else:
                    self._hear(key.data)
            now = time.monotonic()
            # After a pause of our own (a stopped process, a machine asleep) nobody's silence counts.
            self._look(now, forgive=now - last > 4 * _TICK)
            last = now
        return self._status

    # --- one look at everything -------------------------------------------------------------------

    def _look(self, now: float, *, forgive: bool) -> None:
        for worker in self._workers:
            if worker.process is None:
                if self._end is None and now >= worker.due:
                    self._start(worker, now)
                continue
            status = worker.process.poll()
            if status is not None:
                self._ended(worker, status, now)
            elif self._end is not None:
                if now >= self._end:
                    worker.signal(signal.SIGKILL)
            elif not worker.given_up:
                if forgive:
                    worker.asked, worker.started = None, max(worker.started, now - self._start_limit / 2)
                self._check(worker, now)

    def _check(self, worker: _Worker, now: float) -> None:
        """Ask a worker for a sign of life; kill one that has given none for too long."""
        if not worker.ready:
            late = now - worker.started > self._start_limit
        else:
            late = worker.asked is not None and now - worker.asked > self._stall
        if late:
            self._say("error", "worker hangs", worker=worker.index, pid=worker.process and worker.process.pid)
            worker.given_up = True
            worker.signal(signal.SIGKILL)
        elif worker.ready and worker.link is not None and now - worker.pinged >= min(_PING_EVERY, self._stall / 2):
            worker.pinged = now
            worker.asked = worker.asked or now
            with suppress(OSError):
                worker.link.send(PING)

    def _hear(self, worker: _Worker) -> None:
        if worker.link is None:
            return
        try:
            said = worker.link.recv(4096)
        except OSError:
            said = b""
        if not said:
            self._unlink(worker)
            return
        worker.asked = None
        if READY in said and not worker.ready:
            worker.ready = self._served = True
            self._say("info", "worker serves", worker=worker.index, pid=worker.process and worker.process.pid)

    # --- the life of a process --------------------------------------------------------------------

    def _start(self, worker: _Worker, now: float) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            # A session of its own: Ctrl-C in a terminal reaches this process alone, which then drains all.
            worker.process = subprocess.Popen(  # noqa: S603 - our own program
                self._command(worker.index, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                pass_fds=(*self._inherited, theirs.fileno()),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            self._failed(worker, f"cannot be started ({error.strerror})", now)
            return
        finally:
            theirs.close()
        worker.link, worker.ready, worker.given_up = ours, False, False
        worker.asked, worker.started = None, now
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _ended(self, worker: _Worker, status: int, now: float) -> None:
        was_ready, worker.process, worker.ready = worker.ready, None, False
        self._unlink(worker)
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if self._end is not None:
            if was_ready and status != 0:
                self._say("warning", f"worker {how}", worker=worker.index)
                self._status = self._status or 1
            return
        if was_ready and now - worker.started >= _STEADY:
            worker.failures = 0
        self._failed(worker, how, now)

    def _failed(self, worker: _Worker, how: str, now: float) -> None:
        if not self._served:
            sys.stderr.write(f"router: worker {worker.index} {how} before it could serve; nothing is served.\n")
            self._stop(signal.SIGTERM, now + _FORCED)
            self._status = 1
            return
        pause = 0.0 if worker.failures == 0 else min(_LONGEST_PAUSE, 0.25 * 2.0 ** min(worker.failures, 10))
        worker.failures += 1
        worker.due = now + pause
        self._say("warning", f"worker {how}", worker=worker.index, restart_in=pause)

    def _unlink(self, worker: _Worker) -> None:
        if worker.link is not None:
            self._selector.unregister(worker.link)
            worker.link.close()
            worker.link = None

    # --- the end ----------------------------------------------------------------------------------

    def _told(self, number: signal.Signals) -> None:
        self._signals += 1
        now = time.monotonic()
        if self._signals == 1:
            self._say("info", "draining", signal=number.name, seconds=self._drain)
            self._stop(signal.SIGTERM, max(self._end or 0.0, now + self._drain + _AFTER_DRAIN))
        else:
            self._say("warning", "ending at once", signal=number.name)
            self._stop(signal.SIGTERM, now + _FORCED)

    def _stop(self, number: signal.Signals, until: float) -> None:
        self._end = until
        while self._inherited:
            # As long as anybody holds the listener, clients connect to it and wait for nobody.
            os.close(self._inherited.pop())
        for worker in self._workers:
            worker.signal(number)

    def _say(self, level: str, message: str, **fields: object) -> None:
        """Write a line as `shared.logs` would, without loading what it needs."""
        if _LEVELS.index(level) < self._level:
            return
        moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": level, "logger": __name__, "message": message, **fields}
        with suppress(OSError):
            sys.stderr.write(json.dumps(line) + "\n")
            sys.stderr.flush()
