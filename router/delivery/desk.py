"""The desk: requests with one key get one answer, whoever asks first and however often."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from router.delivery.archive import Archive, Entry
from router.delivery.numbering import Place
from router.delivery.recording import Reader, Recording, Room
from shared.errors import (
    IdempotencyConflict,
    IdempotencyKeyReused,
    InternalError,
    NotReplayable,
    Overloaded,
    ServiceError,
)

__all__ = ["DeliveryDesk", "Order"]

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
"""Seconds between two looks at what another process works on, at first and at most."""
_ROOM = 32
"""Recordings of the largest size that there is room for."""
_log = logging.getLogger(__name__)


class Order(NamedTuple):
    """A request under a key.

    Attributes:
        name: The key, and whose it is.
        fingerprint: What is asked, so that a key used for something else is noticed.
        tag: Marks the events of the answer, if it is this request that gets it.
        stream: Whether it is a stream, which can be resumed.
        place: Where to resume it; None: from the beginning.
    """

    name: str
    fingerprint: bytes
    tag: str
    stream: bool
    place: Place | None


class _Work:
    """An answer that is being got."""

    __slots__ = ("recording", "task", "timer")

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class DeliveryDesk:
    """Gives each request a reader of its answer; the first under a key sets the work going.

    The work has a task of its own: it goes on while anybody reads, and a stream for a while longer, so that its
    client can come back. Where nobody can want the answer any more it is cancelled at once.

    Args:
        archive: Finished answers.
        grace: Seconds that a stream goes on without a client.
        patience: Seconds that another process' work on the same key is waited for.
        limit: Bytes of a stream that are held.
    """

    def __init__(self, archive: Archive, grace: float, patience: float, limit: int) -> None:
        self._archive = archive
        self._grace = grace
        self._patience = patience
        self._limit = limit
        self._room = Room(_ROOM * limit)
        self._live: dict[tuple[str, bytes], _Work] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def join(self, order: Order, perform: Callable[[Recording], Awaitable[None]]) -> Reader:
        """Return a reader of the answer to a request; `leave` must follow.

        Args:
            order: The request.
            perform: Gets the answer, where nobody has yet.

        """
        key = (order.name, order.fingerprint)
        work = self._live.get(key)
        again = work is not None
        if work is None:
            work = self._live[key] = _Work(Recording(order.tag, self._limit, self._room))
            task = work.task = self._loop.create_task(self._run(order, work, perform))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif work.timer is not None:
            work.timer.cancel()
        return work.recording.attach(again=again, place=order.place)

    def leave(self, order: Order, reader: Reader) -> None:
        """Let a reader go, and the work too where that was the last who could want it."""
        recording = reader.recording
        recording.detach(reader)
        work = self._live.get((order.name, order.fingerprint))
        if work is None or work.recording is not recording or recording.readers or recording.over:
            return
        if order.stream and self._grace > 0 and not recording.outgrown:
            work.timer = self._loop.call_later(self._grace, self._drop, order, work)
        else:
            self._drop(order, work)

    def _drop(self, order: Order, work: _Work) -> None:
        if work.recording.readers or work.recording.over or work.task is None:
            return
        self._forget(order, work)
        work.task.cancel()

    def _forget(self, order: Order, work: _Work) -> None:
        key = (order.name, order.fingerprint)
        if self._live.get(key) is work:
            del self._live[key]
        work.recording.finish()
        if work.timer is not None:
            work.timer.cancel()

    async def close(self) -> None:
        """Stop all work."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def _run(self, order: Order, work: _Work, perform: Callable[[Recording], Awaitable[None]]) -> None:
        recording, ours = work.recording, True
        try:
            entry = await self._claimed(order)
            ours = entry is None
            if entry is None:
                await self._perform(order, recording, perform)
            elif entry.tape is not None:
                for reader in recording.readers:
                    reader.again = True
                recording.play(entry.tape)
        except ServiceError as error:
            recording.fail(error)
        except asyncio.CancelledError:
            recording.fail(Overloaded("The work on this request was stopped.", retry_after=1))
            raise
        except Exception:  # noqa: BLE001 - the last line against crashes
            _log.exception("unhandled exception")
            recording.fail(InternalError("The server had an internal error."))
        finally:
            try:
                if ours:
                    await self._put_away(order, recording)
            finally:
                self._forget(order, work)

    async def _claimed(self, order: Order) -> Entry | None:
        """Return the finished answer; None where there is none and it is for us to get it.

        Raises:
            IdempotencyConflict: Somebody else works on it for too long, or on another request under this key.
        """
        pause, waited = _FIRST_PAUSE, 0.0
        while (entry := await self._archive.claim(order.name, order.fingerprint, order.tag)) is not None:
            if entry.fingerprint != order.fingerprint:
                raise IdempotencyKeyReused(
                    "This Idempotency-Key was used for another request.", param="Idempotency-Key"
                )
            if entry.tape is not None:
                return entry
            if waited >= self._patience:
                raise IdempotencyConflict("This request is still being answered elsewhere.", retry_after=5)
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(_LONGEST_PAUSE, pause * 1.5)
        return None

    async def _perform(
        self, order: Order, recording: Recording, perform: Callable[[Recording], Awaitable[None]]
    ) -> None:
        if order.place is not None:
            raise NotReplayable("The stream that Last-Event-ID names is no longer there.", param="Last-Event-ID")
        holding = self._loop.create_task(self._archive.hold(order.name, order.fingerprint, order.tag))
        try:
            await perform(recording)
        finally:
            holding.cancel()
            with suppress(asyncio.CancelledError):
                await holding

    async def _put_away(self, order: Order, recording: Recording) -> None:
        """Keep an answer that is good for later requests; else let the next one try."""
        tape = recording.tape()
        if tape is None:
            await self._archive.release(order.name, order.tag)
        else:
            entry = Entry(order.fingerprint, order.tag, tape)
            await self._archive.keep(order.name, entry, private=recording.private)
