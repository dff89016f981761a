"""Keeps one worker alive and gives every request its turn on it.

Requests wait in a bounded line here, not in the worker, so they outlive it. A worker that dies or
gives no sign of life is killed and replaced; requests whose text had not begun run again on the
next one (once), the others are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from local_agent.types import (
    Beat,
    Cancel,
    Configure,
    Failed,
    Finished,
    FromWorker,
    Generate,
    Generation,
    LoadedModel,
    Phase,
    Piece,
    Ready,
)
from local_agent.worker_process import WorkerDied, WorkerProcess
from shared.errors import (
    ContextLengthExceeded,
    EngineRestarted,
    InternalError,
    InvalidRequest,
    Overloaded,
    ServiceError,
)

__all__ = ["Limits", "Status", "Supervisor"]

_ERRORS: dict[str, type[ServiceError]] = {
    str(kind.code): kind for kind in (InvalidRequest, ContextLengthExceeded, InternalError)
}
_GIVE_UP_AFTER = 2
_MAX_BACKOFF_S = 30.0
_log = logging.getLogger(__name__)
_Event: TypeAlias = "Piece | Finished | ServiceError"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much waits and runs, and how long a silence is.

    Attributes:
        max_running: Generations in the worker at a time.
        queue_limit: Requests that may wait for a turn.
        stall_timeout_s: Longest silence of a worker that serves.
        load_timeout_s: Longest silence of a worker that loads.
    """

    max_running: int
    queue_limit: int
    stall_timeout_s: float
    load_timeout_s: float


@dataclass(frozen=True, slots=True)
class Status:
    """A snapshot for `/readyz`, `/metrics` and the router."""

    phase: Phase
    progress_done: int
    progress_total: int
    detail: str
    model: LoadedModel | None
    ready: bool
    worker_pid: int | None
    restarts: int
    last_error: str | None
    queued: int
    running: int
    queue_limit: int
    tokens_generated: int


@dataclass(eq=False, slots=True)
class _Job:
    id: int
    generation: Generation
    events: asyncio.Queue[_Event] = field(default_factory=asyncio.Queue)
    begun: bool = False
    """Whether text has come out of it."""
    requeued: bool = False
    abandoned: bool = False
    sent_at: float = 0.0


class Supervisor:
    """Owns the worker and the line of requests. Run `run` as a task for as long as it shall serve.

    Args:
        configure: What each worker is to load.
        environment: The workers' environment.
        limits: Queue bounds and patience.
    """

    def __init__(self, configure: Configure, environment: Mapping[str, str], limits: Limits) -> None:
        self._configure = configure
        self._environment = environment
        self._limits = limits
        self._ids = itertools.count(1)
        self._waiting: deque[_Job] = deque()
        self._in_flight: dict[int, _Job] = {}
        self._worker: WorkerProcess | None = None
        self._model: LoadedModel | None = None
        self._ready = asyncio.Event()
        self._beat = Beat(Phase.STARTING)
        self._restarts = 0
        self._failed_starts = 0
        self._last_error: str | None = None
        self._tokens = 0
        self._mean_seconds = 2.0

    def status(self) -> Status:
        """Return what is going on, now."""
        beat = self._beat
        return Status(
            phase=beat.phase,
            progress_done=beat.done,
            progress_total=beat.total,
            detail=beat.detail,
            model=self._model,
            ready=self._ready.is_set(),
            worker_pid=self._worker.pid if self._worker else None,
            restarts=self._restarts,
            last_error=self._last_error,
            queued=len(self._waiting),
            running=len(self._in_flight),
            queue_limit=self._limits.queue_limit,
            tokens_generated=self._tokens,
        )

    async def wait_ready(self) -> None:
        """Return when a worker serves."""
        await self._ready.wait()

    async def generate(self, generation: Generation) -> AsyncGenerator[Piece | Finished, None]:
        """Yield the pieces of a generation and last its `Finished`.

        Close the generator (`contextlib.aclosing`) to cancel what it stands for.

        Raises:
            Overloaded: The line is full, or no model is loaded yet.
            EngineRestarted: The worker died while it generated this.
            InvalidRequest: The prompt cannot be served as it is.
        """
        job = self._enqueue(generation)
        try:
            while True:
                event = await job.events.get()
                if isinstance(event, ServiceError):
                    raise event
                if isinstance(event, Finished):
                    yield event
                    return
                # What piled up while the client was slow goes out as one piece.
                text, tokens, last = event.text, event.tokens, None
                while not job.events.empty():
                    last = job.events.get_nowait()
                    if not isinstance(last, Piece):
                        break
                    text, tokens, last = text + last.text, last.tokens, None
                if text:
                    yield Piece(job.id, text, tokens)
                if last is not None:
                    job.events.put_nowait(last)
        finally:
            self._release(job)

    def _enqueue(self, generation: Generation) -> _Job:
        if self._model is None:
            raise Overloaded(f"The model is not loaded yet ({self._progress()}).", retry_after=5)
        if self._failed_starts >= _GIVE_UP_AFTER:
            raise Overloaded(f"The engine cannot start: {self._last_error}", retry_after=_MAX_BACKOFF_S)
        limit = self._limits
        if len(self._waiting) >= limit.queue_limit and not (
            self._ready.is_set() and len(self._in_flight) < limit.max_running
        ):
            wait = self._mean_seconds * (len(self._waiting) + 1) / limit.max_running
            raise Overloaded(
                f"{len(self._waiting)} requests are waiting, which is the limit.", retry_after=min(60.0, max(1.0, wait))
            )
        job = _Job(next(self._ids), generation)
        self._waiting.append(job)
        self._dispatch()
        return job

    def _progress(self) -> str:
        beat = self._beat
        share = f", {100 * beat.done // beat.total} %" if beat.total else ""
        return f"{beat.phase.value}{share}"

    def _release(self, job: _Job) -> None:
        """Forget a job whose caller is gone; its slot frees when the worker confirms."""
        if job in self._waiting:
            self._waiting.remove(job)
        elif job.id in self._in_flight and not job.abandoned:
            job.abandoned = True
            if self._worker is not None:
                self._worker.send(Cancel(job.id))

    def _dispatch(self) -> None:
        """Send waiting jobs to the worker while it has room."""
        if self._worker is None or not self._ready.is_set():
            return
        while self._waiting and len(self._in_flight) < self._limits.max_running:
            job = self._waiting.popleft()
            job.sent_at = time.monotonic()
            self._in_flight[job.id] = job
            self._worker.send(Generate(job.id, job.generation))

    async def run(self) -> None:
        """Keep a worker alive until cancelled."""
        backoff = 0.0
        try:
            while True:
                tokens_before = self._tokens
                await self._one_life()
                self._restarts += 1
                healthy = self._failed_starts == 0 and self._tokens > tokens_before
                backoff = 0.0 if healthy else min(_MAX_BACKOFF_S, backoff * 2 or 0.25)
                await asyncio.sleep(backoff)
        finally:
            self._beat = Beat(Phase.STOPPED)
            self._fail_all(Overloaded("The agent is shutting down.", retry_after=5))

    async def _one_life(self) -> None:
        """Start a worker, serve with it until it dies, and clean up after it."""
        configure = self._configure
        if self._failed_starts >= _GIVE_UP_AFTER:
            reason = (
                f"the worker failed {self._failed_starts} times while loading {configure.model}: {self._last_error}"
            )
            configure = msgspec.structs.replace(configure, use_embedded=reason)
        grace = 0.0
        try:
            worker = await WorkerProcess.start(configure, self._environment)
        except OSError as error:  # out of processes or memory; better times may come
            self._last_error = f"the worker cannot be started: {error}"
            self._failed_starts += 1
            _log.exception("the worker cannot be started")
            return
        self._worker = worker
        try:
            while True:
                serving = self._beat.phase.serving
                message = await worker.receive(self._limits.stall_timeout_s if serving else self._limits.load_timeout_s)
                self._receive(message)
        except WorkerDied as death:
            self._last_error = self._last_error if self._beat.phase is Phase.STOPPED else str(death)
        except asyncio.CancelledError:
            grace = 2.0
            raise
        finally:
            was_ready, self._worker = self._ready.is_set(), None
            self._ready.clear()
            self._beat = Beat(Phase.RESTARTING, detail=self._beat.phase.value)
            self._bury()
            how = await worker.stop(grace)
            if not grace:
                self._failed_starts = 0 if was_ready else self._failed_starts + 1
                if self._failed_starts >= _GIVE_UP_AFTER:
                    self._fail_all(EngineRestarted(f"The engine cannot start: {self._last_error}"))
                _log.error(
                    "the worker is gone and will be replaced",
                    extra={"fields": {"reason": self._last_error, "ended_by": how, "phase": self._beat.detail}},
                )

    def _receive(self, message: FromWorker) -> None:
        """Act on one message of the worker."""
        if isinstance(message, Piece):
            self._piece(message)
        elif isinstance(message, Finished):
            self._end(message.id, message)
        elif isinstance(message, Failed):
            kind = _ERRORS.get(message.code, InternalError)
            self._end(message.id, kind(message.message, param=message.param))
        elif isinstance(message, Beat):
            self._beat = message
        elif isinstance(message, Ready):
            self._model, self._failed_starts = message.model, 0
            self._ready.set()
            self._beat = Beat(Phase.IDLE)
            _log.info("ready", extra={"fields": {"model": message.model.id, "device": message.model.device}})
            self._dispatch()
        else:
            self._last_error = message.message
            self._beat = Beat(Phase.STOPPED)

    def _piece(self, piece: Piece) -> None:
        self._tokens += 1
        if (job := self._in_flight.get(piece.id)) is not None:
            job.begun = job.begun or bool(piece.text)
            job.events.put_nowait(piece)

    def _end(self, job_id: int, event: Finished | ServiceError) -> None:
        if (job := self._in_flight.pop(job_id, None)) is not None:
            self._mean_seconds += 0.2 * (time.monotonic() - job.sent_at - self._mean_seconds)
            job.events.put_nowait(event)
        self._dispatch()

    def _bury(self) -> None:
        """Tell or re-queue what ran in a worker that is gone."""
        for job in sorted(self._in_flight.values(), key=lambda job: job.id, reverse=True):
            if job.abandoned:
                continue
            if job.begun or job.requeued:
                job.events.put_nowait(
                    EngineRestarted("The engine restarted while it generated this answer; try again.", retry_after=1)
                )
            else:
                job.requeued = True
                self._waiting.appendleft(job)
        self._in_flight.clear()

    def _fail_all(self, error: ServiceError) -> None:
        for job in (*self._waiting, *self._in_flight.values()):
            with contextlib.suppress(asyncio.QueueFull):
                job.events.put_nowait(error)
        self._waiting.clear()
        self._in_flight.clear()
