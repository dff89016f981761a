"""The archive: finished answers by the key they were asked for with, and who is working on one now."""

from __future__ import annotations

import asyncio

import msgspec

from router.delivery.recording import Tape
from router.interfaces import StateStore

__all__ = ["Archive", "Entry"]

_HOLD = 15.0
"""Seconds that a key stays with a process that says nothing any more."""
_PART = 512 * 1024
"""Bytes that are put into a shared store at a time: each call has to keep to its budget."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a key: the answer, or that somebody works on it."""

    fingerprint: bytes
    holder: str
    tape: Tape | None = None


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """An entry as it lies in a store: a large one in several parts, which `holder` names."""

    fingerprint: bytes
    holder: str
    tape: bytes = b""
    parts: int = 0


_STORED = msgspec.msgpack.Decoder(_Stored)
_TAPE = msgspec.msgpack.Decoder(Tape)


class Archive:
    """Keeps answers in the store that routers share, and where that is away or not to be trusted, in this process.

    Args:
        shared: The store that routers share.
        local: A store within this process.
        ttl: Seconds that an answer is kept.
        at_home: Whether the shared store is on this machine; elsewhere it gets no answer that must stay local.
    """

    def __init__(self, shared: StateStore, local: StateStore, ttl: float, *, at_home: bool = True) -> None:
        self._shared = shared
        self._local = local
        self._ttl = ttl
        self._at_home = at_home

    async def claim(self, name: str, fingerprint: bytes, holder: str) -> Entry | None:
        """Return what is known of a key; None where nothing was, and it is the holder's from now on."""
        entry = await self._read(self._local, name)
        if entry is not None:
            return entry
        value = msgspec.msgpack.encode(_Stored(fingerprint, holder))
        # A store that is away says nothing, and holds nobody up: then this process decides for itself.
        for store in (self._shared, self._local):
            if await store.put_if_absent(_key(name), value, _HOLD) is False:
                entry = await self._read(store, name) or Entry(fingerprint, "")
                if entry.holder != holder:
                    return entry
        return None

    async def hold(self, name: str, fingerprint: bytes, holder: str) -> None:
        """Keep a claim alive until cancelled."""
        value = msgspec.msgpack.encode(_Stored(fingerprint, holder))
        while True:
            await asyncio.sleep(_HOLD / 3)
            for store in (self._shared, self._local):
                if await _holder(store, name) in (None, holder):
                    await store.put(_key(name), value, _HOLD)

    async def release(self, name: str, holder: str) -> None:
        """Give a claim up."""
        for store in (self._shared, self._local):
            if await _holder(store, name) == holder:
                await store.delete(_key(name))

    async def keep(self, name: str, entry: Entry, *, private: bool) -> None:
        """Keep an answer; one that must stay on this machine goes nowhere else.

        Args:
            name: The key.
            entry: The answer.
            private: Whether it must stay on this machine.
        """
        tape = msgspec.msgpack.encode(entry.tape)
        if self._shared.available and (self._at_home or not private):
            await self._share(name, entry, tape)
            if self._shared.available:
                await self._local.delete(_key(name))
                return
        await self.release(name, entry.holder)
        stored = _Stored(entry.fingerprint, entry.holder, tape)
        await self._local.put(_key(name), msgspec.msgpack.encode(stored), self._ttl)

    async def _share(self, name: str, entry: Entry, tape: bytes) -> None:
        parts = -(-len(tape) // _PART) if len(tape) > _PART else 0
        for number in range(parts):
            part = tape[number * _PART : (number + 1) * _PART]
            await self._shared.put(_key(name, entry.holder, number), part, self._ttl)
        stored = _Stored(entry.fingerprint, entry.holder, b"" if parts else tape, parts)
        await self._shared.put(_key(name), msgspec.msgpack.encode(stored), self._ttl)

    async def _read(self, store: StateStore, name: str) -> Entry | None:
        value = await store.get(_key(name))
        if value is None:
            return None
        try:
            stored = _STORED.decode(value)
            if not (stored.tape or stored.parts):
                return Entry(stored.fingerprint, stored.holder)
            parts = [await store.get(_key(name, stored.holder, number)) for number in range(stored.parts)]
            tape = b"".join(part for part in parts if part is not None) if parts else stored.tape
            return Entry(stored.fingerprint, stored.holder, _TAPE.decode(tape))
        except msgspec.DecodeError:
            # Not ours, or a part of it is gone: the key is free again.
            await store.delete(_key(name))
            return None


async def _holder(store: StateStore, name: str) -> str | None:
    value = await store.get(_key(name))
    try:
        return None if value is None else _STORED.decode(value).holder
    except msgspec.DecodeError:
        return ""


def _key(name: str, holder: str = "", part: int | None = None) -> str:
    return f"once:{name}" if part is None else f"once:{name}:{holder}:{part}"
