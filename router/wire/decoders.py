"""Decoders: the bytes of an answer's body into events, whatever the dialect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from router.types import Chunk, Completion
from shared.errors import ServiceError, UpstreamUnavailable
from shared.sse import EventTooLarge, SSEEvent, SSEReader

__all__ = ["EventStream", "Translation", "WholeBody", "WholeStream"]

ANSWER_LIMIT = 256 * 1024 * 1024
"""The largest whole answer accepted, in bytes."""


class Translation(Protocol):
    """Turns the events of one backend's stream into the client's."""

    def feed(self, event: SSEEvent) -> Sequence[Chunk]:
        """Return the chunks for one event.

        Raises:
            ServiceError: The event is not valid, or says that the backend failed.
        """
        ...

    def close(self) -> Sequence[Chunk]:
        """Return the chunks that end the stream where its bytes end without `[DONE]`.

        Raises:
            ServiceError: The bytes ended before the answer did.
        """
        ...


class WholeBody:
    """Collects a body, then parses it.

    Args:
        parse: Turns the whole body into the answer.
    """

    failure: ServiceError | None = None
    done = False

    def __init__(self, parse: Callable[[bytes], Completion]) -> None:
        self._parse = parse
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Sequence[Completion]:
        """Keep a part.

        Raises:
            UpstreamUnavailable: The answer is too large.
        """
        self._size += len(data)
        if self._size > ANSWER_LIMIT:
            raise UpstreamUnavailable(f"The backend's answer exceeds {ANSWER_LIMIT} bytes.")
        self._parts.append(data)
        return ()

    def end(self) -> Sequence[Completion]:
        """Return the answer; see `Decoder.end`."""
        parts = self._parts
        return (self._parse(parts[0] if len(parts) == 1 else b"".join(parts)),)


class WholeStream(WholeBody):
    """Collects a body, then parses it and hands it on as a stream of one piece."""

    def end(self) -> Sequence[Chunk]:  # type: ignore[override]
        """Return the answer; see `Decoder.end`."""
        (whole,) = super().end()
        return (Chunk(whole.body, True, whole.usage, whole.finish_reason, True),)


class EventStream:
    """Reads server-sent events under any byte split and translates them.

    What one read brings becomes one chunk: the client gets the same bytes in fewer writes.

    Args:
        translation: Knows the dialect.
    """

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        self._reader = SSEReader()
        self.done = False
        self.failure: ServiceError | None = None

    def feed(self, data: bytes) -> Sequence[Chunk]:
        """Return what `data` completes; an error behind good events waits in `failure`.

        Raises:
            ServiceError: The first event is not valid, or says that the backend failed.
        """
        try:
            events = self._reader.feed(data)
        except EventTooLarge as error:
            raise UpstreamUnavailable("The backend's stream holds an event that is too large.") from error
        return self._translated(events)

    def _translated(self, events: Sequence[SSEEvent]) -> Sequence[Chunk]:
        feed = self._translation.feed
        if len(events) == 1:
            chunks = feed(events[0])
        else:
            gathered: list[Chunk] = []
            for event in events:
                try:
                    gathered += feed(event)
                except ServiceError as error:
                    if not gathered:
                        raise
                    self.failure = error
                    break
                if gathered and gathered[-1].done:
                    break
            chunks = gathered
        if not chunks:
            return ()
        self.done = chunks[-1].done
        return chunks if len(chunks) == 1 else (_merged(chunks),)

    def end(self) -> Sequence[Chunk]:
        """Return what is left; see `Decoder.end`."""
        if self.done:
            return ()
        rest = self._reader.close()
        last = list(self._translated(SSEReader().feed(rest + b"\n\n"))) if rest.strip() else []
        if self.done or self.failure is not None:
            return last
        last += self._translation.close()
        self.done = True
        return last

    def lost(self) -> Sequence[Chunk]:
        """Return what ends the stream, whose connection broke, where all but its end had been said.

        Raises:
            ServiceError: Something was still to be said.
        """
        if self.done or self.failure is not None:
            return ()
        last = self._translation.close()
        self.done = True
        return last


def _merged(chunks: Sequence[Chunk]) -> Chunk:
    usage = finish = None
    output = False
    for chunk in chunks:
        usage = chunk.usage or usage
        finish = chunk.finish_reason or finish
        output = output or chunk.output
    return Chunk(b"".join([chunk.raw for chunk in chunks]), output, usage, finish, chunks[-1].done)
