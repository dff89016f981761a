"""A recording: one answer, kept as it comes, for everybody who waits for it."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from router.delivery.numbering import Numbering, Place
from router.interfaces import Headers
from shared.errors import NotReplayable, ServiceError

__all__ = ["Reader", "Recording", "Room", "Tape"]

_BATCH = 64 * 1024
"""Bytes of a stream that a reader takes at a time, and that it holds where there is no room."""


class Room:
    """What all recordings of a process may hold together.

    Args:
        total: In bytes.
    """

    __slots__ = ("left",)

    def __init__(self, total: int) -> None:
        self.left = total


class Tape(Struct, frozen=True, array_like=True):
    """A finished answer in the form in which it is kept."""

    tag: str
    status: int
    headers: list[tuple[bytes, bytes]]
    content_type: bytes
    stream: bool
    pieces: list[bytes]


class Recording:
    """One answer as its clients get it, from whoever gives it; each reader follows at its own pace.

    What it holds is bounded. A stream that outgrows the bound forgets what its first reader has, which from then on
    holds the backend back; who comes later, or is slower, cannot have it any more.

    Args:
        tag: Marks its events.
        limit: Bytes of a stream that are held.
        room: What there is for all recordings.
    """

    def __init__(self, tag: str, limit: int, room: Room) -> None:
        self.tag = tag
        self.early: Headers = ()
        """What can be told of the answer before it begins."""
        self.begun = False
        self.head: Headers = ()
        self.status = 200
        self.content_type = b""
        self.stream = False
        self.over = False
        """Whether nothing more comes."""
        self.error: ServiceError | None = None
        self.outgrown = False
        self.keep = False
        """Whether the answer is good for later requests too."""
        self.private = False
        """Whether it must stay on this machine."""
        self.readers: list[Reader] = []
        self._numbering = Numbering(tag)
        self._limit = limit
        self._room = room
        self._live = True
        self._pieces: list[bytes] = []
        self._first = 0
        """The number of pieces that are forgotten."""
        self._size = 0
        self._waiting: list[asyncio.Future[None]] = []

    # --- the answer: Listener ---------------------------------------------------------------------

    async def answer(
        self, status: int, headers: Headers, body: bytes, content_type: bytes = b"application/json"
    ) -> None:
        """Take a whole answer."""
        self.status, self.head, self.content_type = status, headers, content_type
        self._pieces, self._size = [body], len(body)
        self._room.left -= len(body)
        self.begun = self.over = True
        self._wake()

    def begin(self, headers: Headers) -> None:
        """Begin a stream."""
        self.head = headers
        self.begun = self.stream = True
        self._wake()

    def push(self, data: bytes) -> bool:
        """Take whole events of a stream; say whether there is room for more now."""
        self._add(data)
        self._wake()
        return self._size <= self._bound

    async def drain(self) -> None:
        """Wait until there is room for more."""
        while self._size > self._bound:
            await self._change()

    async def end(self, data: bytes = b"") -> None:
        """Take the last piece of a stream, and its end."""
        self._add(data)
        self.over = True
        self._wake()

    def fail(self, error: ServiceError) -> None:
        """End with an error."""
        if not self.over:
            self.error, self.over = error, True
            self._wake()

    def play(self, tape: Tape) -> None:
        """Take an answer that was kept."""
        self.tag, self.status, self.head = tape.tag, tape.status, tape.headers
        self.content_type, self.stream, self._pieces = tape.content_type, tape.stream, tape.pieces
        self._size = sum(map(len, tape.pieces))
        self._room.left -= self._size
        self.begun = self.over = True
        self._wake()

    def tape(self) -> Tape | None:
        """Return the finished answer in the form in which it is kept, or None where it is not to be."""
        if not (self.keep and self.over and self.error is None) or self._first or self._size > self._limit:
            return None
        return Tape(self.tag, self.status, list(self.head), self.content_type, self.stream, self._pieces)

    def _add(self, data: bytes) -> None:
        if not data:
            return
        pieces = self._numbering.feed(data)
        self._pieces += pieces
        size = sum(map(len, pieces))
        self._size += size
        self._room.left -= size
        self._forget()

    @property
    def _bound(self) -> int:
        return self._limit if self._room.left >= 0 else min(self._limit, _BATCH)

    # --- its readers ------------------------------------------------------------------------------

    def attach(self, *, again: bool, place: Place | None) -> Reader:
        """Return a reader of it all, or from the place on that it names."""
        reader = Reader(self, again=again, place=place)
        self.readers.append(reader)
        return reader

    def detach(self, reader: Reader) -> None:
        """Let a reader go."""
        if reader in self.readers:
            self.readers.remove(reader)
            self._forget()
            self._wake()
            self._clear()

    def finish(self) -> None:
        """Get no more readers."""
        self._live = False
        self._clear()

    def _clear(self) -> None:
        """Give back the room of what nobody can read any more."""
        if not (self._live or self.readers):
            self._room.left += self._size
            self._size, self._pieces = 0, []

    def holds(self, position: int) -> bool:
        """Return whether the piece after so many others is not forgotten."""
        return position >= self._first

    def after(self, position: int) -> tuple[list[bytes], bool]:
        """Return some of the pieces after so many others, and whether nothing will follow them."""
        size, taken = 0, []
        for index in range(position - self._first, len(self._pieces)):
            taken.append(self._pieces[index])
            size += len(taken[-1])
            if size >= _BATCH:
                break
        return taken, self.over and self.error is None and position + len(taken) >= self._first + len(self._pieces)

    def moved(self) -> None:
        """Look whether a reader's step forward makes room."""
        if self.outgrown:
            self._forget()
            self._wake()

    def _forget(self) -> None:
        """Where there is too much, forget what the first reader has."""
        if self.outgrown or (self.stream and self._size > self._bound):
            self.outgrown = True
            read = self.readers[0].position - self._first if self.readers else 0
            if read > 0:
                size = sum(map(len, self._pieces[:read]))
                self._size -= size
                self._room.left += size
                del self._pieces[:read]
                self._first += read

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _change(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    async def until_begun(self) -> None:
        """Wait until there is a head.

        Raises:
            ServiceError: There will be none.
        """
        while not self.begun:
            if self.error is not None:
                raise self.error
            await self._change()

    async def until_after(self, position: int) -> None:
        """Wait until there is more than so many pieces, or nothing will come.

        Raises:
            ServiceError: It failed.
        """
        while position >= self._first + len(self._pieces) and not self.over:
            await self._change()
        if position >= self._first + len(self._pieces) and self.error is not None:
            raise self.error


class Reader:
    """One client's place in a recording."""

    __slots__ = ("_place", "again", "position", "recording")

    def __init__(self, recording: Recording, *, again: bool, place: Place | None) -> None:
        self.recording = recording
        self.again = again
        """Whether the answer was asked for before."""
        self.position = 0 if place is None else place[1]
        self._place = place

    async def ready(self) -> None:
        """Wait until the answer has begun.

        Raises:
            ServiceError: It failed, or this reader comes too late for it.
        """
        recording = self.recording
        await recording.until_begun()
        if self._place is not None and recording.stream and recording.tag != self._place[0]:
            raise NotReplayable("The stream that Last-Event-ID names is no longer there.", param="Last-Event-ID")
        self._check()

    async def more(self) -> tuple[bytes, bool]:
        """Return what comes next, and whether that is the end.

        Raises:
            ServiceError: The answer failed, or has outgrown what is held of it.
        """
        recording = self.recording
        await recording.until_after(self.position)
        self._check()
        pieces, last = recording.after(self.position)
        self.position += len(pieces)
        recording.moved()
        return b"".join(pieces), last

    def _check(self) -> None:
        if not self.recording.holds(self.position):
            raise NotReplayable("The answer to this Idempotency-Key is too large to be given more than once.")
