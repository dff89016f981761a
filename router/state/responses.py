"""What is kept of responses from one turn to the next: in the shared store, and in this process where that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from router.interfaces import StateStore
from router.wire.responses.turns import Kept, digest

__all__ = ["ResponseStore"]

_KEPT = msgspec.json.Decoder(Kept)
_GONE = b""
"""What stands where something was deleted: the other stores, and a backend that would still know it, are not asked."""
_MOST = 4 * 1024 * 1024
"""The largest record that goes to the shared store, in bytes; a larger one stays in this process."""
_ALONE = b"\n"
"""What ends the name of a maker who made all that came before too."""
_LOOKED_AT = 64
"""How far back a conversation is looked at, one by one."""


class ResponseStore:
    """Keeps responses for each caller, and who made what only its maker can read.

    Args:
        shared: The store of all processes.
        own: This process's own.
        ttl: Seconds that a response is kept; 0 keeps none.
        at_home: Whether the shared store is on this machine; elsewhere nothing goes that must stay local.
    """

    def __init__(self, shared: StateStore, own: StateStore, ttl: float, *, at_home: bool = True) -> None:
        self._shared = shared
        self._own = own
        self._ttl = ttl
        self._at_home = at_home

    async def get(self, caller: str, name: str) -> Kept | None:
        """Return what is kept of a response, or None."""
        value = await self._read(_key(caller, name))
        if not value:
            return None
        try:
            return _KEPT.decode(value)
        except msgspec.DecodeError:
            return None

    async def put(self, caller: str, name: str, kept: Kept, *, local: bool) -> None:
        """Keep a response.

        Args:
            caller: Who may read it.
            name: Its id.
            kept: What to keep.
            local: Whether it must not leave this machine.
        """
        await self._write(_key(caller, name), msgspec.json.encode(kept), local=local)

    async def delete(self, caller: str, name: str) -> bool:
        """Forget a response; say whether it was there."""
        key = _key(caller, name)
        if not await self._read(key):
            return False
        await self._write(key, _GONE, local=False)
        return True

    async def conversation(self, caller: str, kept: Kept) -> list[msgspec.Raw] | None:
        """Return all items up to a response's answer, or None where something before is not known any more."""
        parts, step, met = [kept.items], kept, set[str]()
        while step.base is not None:
            before = await self.get(caller, step.base)
            if before is None or step.base in met:  # a backend may give two answers one id
                return None
            met.add(step.base)
            parts.append([*before.items, *before.output])
            step = before
        return [item for part in reversed(parts) for item in part]

    async def makers(self, caller: str, contents: Sequence[str]) -> dict[str, str]:
        """Return who made each sealed content, as far as that is known: content to deployment id.

        Args:
            caller: Who was given them.
            contents: In the order of the conversation. Mostly one look at the last is enough.
        """
        if not contents:
            return {}
        last = await self._read(_seal(caller, contents[-1]))
        if last is not None and last.endswith(_ALONE):
            return dict.fromkeys(contents, last[: -len(_ALONE)].decode())
        others = [*dict.fromkeys(contents[-_LOOKED_AT:-1])]
        values = [*await asyncio.gather(*(self._read(_seal(caller, content)) for content in others)), last]
        found = zip([*others, contents[-1]], values, strict=True)
        return {content: value.removesuffix(_ALONE).decode() for content, value in found if value}

    async def note_maker(self, caller: str, contents: Iterable[str], deployment: str, *, alone: bool) -> None:
        """Remember who made sealed contents.

        Args:
            caller: Who was given them.
            contents: What is sealed.
            deployment: Who made them.
            alone: Whether all that came before in the conversation was made there too.
        """
        value = deployment.encode() + (_ALONE if alone else b"")
        await asyncio.gather(*(self._write(_seal(caller, content), value, local=False) for content in contents))

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self._ttl > 0

    async def _read(self, key: str) -> bytes | None:
        value = await self._shared.get(key)
        return value if value is not None else await self._own.get(key)

    async def _write(self, key: str, value: bytes, *, local: bool) -> None:
        if self._ttl <= 0:
            return
        if self._shared.available and len(value) <= _MOST and (self._at_home or not local):
            await self._shared.put(key, value, self._ttl)
            if self._shared.available:
                return
        await self._own.put(key, value, self._ttl)


def _key(caller: str, name: str) -> str:
    return f"response:{caller}:{name[:128]}"


def _seal(caller: str, content: str) -> str:
    return f"sealed:{digest(caller, content)}"
