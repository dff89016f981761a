"""The exact cache: the same request by the same key has the same answer for a while."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

import msgspec

from router.interfaces import StateStore
from router.types import Chunk, Completion, Event, InferenceRequest, Privacy
from router.wire.fields import raw_fields
from router.wire.transcript import chunks_of, join_chunks
from shared.sse import DONE, SSEReader

__all__ = ["CachedAnswer", "ExactCache"]

_IGNORED = ("stream", "stream_options", "router")
"""Fields that change how an answer is delivered, not what it says."""


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer in the form that a request wants, and who gave it."""

    events: list[Event]
    model: str
    backend: str


class _Entry(msgspec.Struct):
    model: str
    backend: str
    completion: msgspec.Raw


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Choices(msgspec.Struct):
    choices: list[_Choice]


_ENTRY = msgspec.json.Decoder(_Entry)
_CHOICES = msgspec.json.Decoder(_Choices)


class ExactCache:
    """Keeps whole answers in a `StateStore`; one entry serves streams and others alike.

    Args:
        store: Where the entries live.
        ttl: Seconds an entry lives.
        max_bytes: The largest answer kept.
        at_home: Whether the store is on this machine; elsewhere it gets no answer that must stay local.
    """

    def __init__(self, store: StateStore, ttl: float, max_bytes: int = 1024 * 1024, *, at_home: bool = True) -> None:
        self._store = store
        self._at_home = at_home
        self._ttl = ttl
        self.max_bytes = max_bytes
        self._pending: dict[str, asyncio.Task[None]] = {}

    def eligible(self, request: InferenceRequest, privacy: Privacy = "any") -> bool:
        """Return whether the request may be answered from the cache and its answer kept.

        Args:
            request: The request.
            privacy: How far it may go, by its own wish and the policy's constraint.
        """
        wish = request.wishes.cache
        if request.endpoint != "chat":
            return False  # its answers are kept in the form of chat
        if privacy == "local" and not self._at_home:
            return False
        if request.endpoint != "chat" or wish == "off" or self._ttl <= 0 or not self._store.available:
            return False
        return request.deterministic or wish in ("on", "refresh")

    async def get(self, request: InferenceRequest, scope: str) -> CachedAnswer | None:
        """Return the kept answer, or None.

        Args:
            request: An eligible request.
            scope: What besides the request decides on the answer (the policy in force).
        """
        if request.wishes.cache == "refresh":
            return None
        key = self._key(request, scope)
        if (writing := self._pending.get(key)) is not None:
            await asyncio.wait((writing,))
        value = await self._store.get(key)
        if value is None:
            return None
        try:
            entry = _ENTRY.decode(value)
            return CachedAnswer(self._events(bytes(entry.completion), request), entry.model, entry.backend)
        except msgspec.DecodeError:
            return None  # not ours, or an answer that has no form as a stream

    def _events(self, completion: bytes, request: InferenceRequest) -> list[Event]:
        if not request.stream:
            return [Completion(completion)]
        raws = chunks_of(completion, request.usage_asked)
        return [Chunk(raw, output=True, done=raw == DONE) for raw in raws]

    def put(self, request: InferenceRequest, scope: str, answer: CachedAnswer) -> None:
        """Keep a finished answer, off the request's path; a `get` that follows waits for it.

        An answer that cannot serve both forms without loss is not kept.
        """
        completion = self._completion(answer.events)
        if completion is None or len(completion) > self.max_bytes:
            return
        key = self._key(request, scope)
        value = msgspec.json.encode(_Entry(answer.model, answer.backend, msgspec.Raw(completion)))
        task = asyncio.get_running_loop().create_task(self._write(self._pending.get(key), key, value))
        self._pending[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))

    async def _write(self, before: asyncio.Task[None] | None, key: str, value: bytes) -> None:
        """Keep a value after the one that was put before it, so that the newest stays."""
        if before is not None:
            await asyncio.wait((before,))
        await self._store.put(key, value, self._ttl)

    def _forget(self, key: str, task: asyncio.Task[None]) -> None:
        if self._pending.get(key) is task:
            del self._pending[key]

    async def drain(self) -> None:
        """Wait until everything that was put is kept."""
        if self._pending:
            await asyncio.wait(set(self._pending.values()))

    def _completion(self, events: list[Event]) -> bytes | None:
        if len(events) == 1 and isinstance(events[0], Completion):
            return events[0].body if _finished(events[0].body) else None
        reader = SSEReader()
        raw = b"".join(event.raw for event in events if isinstance(event, Chunk))
        data = [event.data for event in reader.feed(raw) if event.data is not None]
        if not data or data[-1] != b"[DONE]":
            return None
        usage = next((event.usage for event in reversed(events) if event.usage is not None), None)
        return join_chunks(data[:-1], usage)

    def _key(self, request: InferenceRequest, scope: str) -> str:
        fields = {name: _meaning(value) for name, value in raw_fields(request.body).items() if name not in _IGNORED}
        identity = [request.caller.id, request.endpoint, scope, request.wishes.privacy, fields]
        return "cache:" + hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()


def _meaning(value: msgspec.Raw) -> object:
    """Return what a JSON value says, whatever its spelling; its bytes where it cannot be read (1e999)."""
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return {"": bytes(value)}


def _finished(completion: bytes) -> bool:
    """Return whether every choice of a whole answer came to its end."""
    try:
        return all(choice.finish_reason for choice in _CHOICES.decode(completion).choices)
    except (msgspec.DecodeError, RecursionError):
        return False
