"""What is kept of responses, in a shared store and in this process."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from router.state.memory import MemoryStore
from router.state.responses import ResponseStore
from router.wire.responses.turns import Kept, Turn, keep


class Away(MemoryStore):
    """A shared store that may be away: it then finds nothing and loses what is written."""

    away = False

    @property
    def available(self) -> bool:
        """Whether it answers."""
        return not self.away

    async def get(self, key: str) -> bytes | None:
        """Return the value, if there is one and the store is there."""
        return None if self.away else await super().get(key)

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Keep a value, if the store is there."""
        if not self.away:
            await super().put(key, value, ttl)


def raw(value: Any) -> msgspec.Raw:
    """Return a value's JSON."""
    return msgspec.Raw(json.dumps(value).encode())


def said(text: str) -> msgspec.Raw:
    """Return a message of the user's."""
    return raw({"role": "user", "content": text})


def kept(name: str, *items: msgspec.Raw) -> Kept:
    """Return a record."""
    return Kept(raw({"id": name, "output": [{"type": "message", "id": f"msg_{name}"}]}), list(items))


async def test_store_keeps_what_was_put_for_its_caller() -> None:
    """A record comes back to its caller, and to nobody else; a deleted one to nobody."""
    store = ResponseStore(MemoryStore(), MemoryStore(), 60)
    await store.put("a", "resp_1", kept("resp_1", said("x")), local=False)
    found = await store.get("a", "resp_1")
    assert found is not None
    assert bytes(found.response) == bytes(kept("resp_1").response)
    assert await store.get("b", "resp_1") is None
    assert not await store.delete("b", "resp_1")
    assert await store.delete("a", "resp_1")
    assert not await store.delete("a", "resp_1")
    assert await store.get("a", "resp_1") is None


async def test_store_falls_back_on_its_own_while_the_shared_one_is_away() -> None:
    """What is written while the shared store is away is found then and later."""
    shared = Away()
    store = ResponseStore(shared, MemoryStore(), 60)
    shared.away = True
    await store.put("a", "resp_1", kept("resp_1"), local=False)
    assert await store.get("a", "resp_1") is not None
    shared.away = False
    assert await store.get("a", "resp_1") is not None
    assert await store.delete("a", "resp_1")
    assert await store.get("a", "resp_1") is None


async def test_store_keeps_private_and_huge_records_to_itself() -> None:
    """What must stay on this machine never reaches a store elsewhere, and neither does what is too large for it."""
    shared = MemoryStore()
    store = ResponseStore(shared, MemoryStore(), 60, at_home=False)
    await store.put("a", "resp_1", kept("resp_1"), local=True)
    await store.put("a", "resp_2", kept("resp_2", said("x" * 5_000_000)), local=False)
    assert await shared.get("response:a:resp_1") is None
    assert await shared.get("response:a:resp_2") is None
    assert await store.get("a", "resp_1") is not None
    assert await store.get("a", "resp_2") is not None


async def test_store_that_keeps_nothing_keeps_nothing() -> None:
    """A time of 0 turns it off."""
    store = ResponseStore(MemoryStore(), MemoryStore(), 0)
    await store.put("a", "resp_1", kept("resp_1"), local=False)
    assert not store.keeps
    assert await store.get("a", "resp_1") is None


async def test_store_reads_past_what_is_not_a_record() -> None:
    """A value that cannot be read counts as none."""
    shared = MemoryStore()
    await shared.put("response:a:resp_1", b"{not json", 60)
    assert await ResponseStore(shared, MemoryStore(), 60).get("a", "resp_1") is None


async def test_conversation_is_whole_over_many_segments() -> None:
    """However long a conversation grows, all of it comes back, and each record holds but a part."""
    store = ResponseStore(MemoryStore(), MemoryStore(), 60)
    before: tuple[str, Kept] | None = None
    texts = [f"{turn}:" + "x" * 20_000 for turn in range(12)]
    for turn, text in enumerate(texts):
        name = f"resp_{turn}"
        answer = json.dumps({"id": name, "output": [{"type": "message", "id": f"msg_{turn}"}]}).encode()
        record = keep(Turn(before[0] if before else None, [said(text)], True), answer, before, None)
        assert len(msgspec.json.encode(record)) < 128 * 1024
        await store.put("a", name, record, local=False)
        before = (name, record)
    assert before is not None
    items = await store.conversation("a", before[1])
    assert items is not None
    assert [json.loads(bytes(item)).get("content") for item in items][::2] == texts
    assert len(items) == 23
    base = before[1].base
    assert base is not None
    await store.delete("a", base)
    assert await store.conversation("a", before[1]) is None


async def test_conversation_in_a_circle_ends() -> None:
    """Records that refer to one another are no conversation."""
    store = ResponseStore(MemoryStore(), MemoryStore(), 60)
    record = Kept(raw({"id": "resp_1", "output": []}), [], "resp_1")
    await store.put("a", "resp_1", record, local=False)
    assert await store.conversation("a", record) is None


async def test_makers_are_remembered_for_their_caller() -> None:
    """Who made sealed reasoning is known to the caller that was given it."""
    store = ResponseStore(MemoryStore(), MemoryStore(), 60)
    await store.note_maker("a", ["s1", "s2"], "m@b", alone=False)
    assert await store.makers("a", ["s1", "s3", "s2"]) == {"s1": "m@b", "s2": "m@b"}
    assert await store.makers("a", ["s1", "s3"]) == {"s1": "m@b"}
    assert await store.makers("b", ["s1"]) == {}
    assert await store.makers("a", []) == {}


async def test_makers_of_a_long_conversation_need_one_look() -> None:
    """Where the last maker made all that came before, nothing else is looked up."""
    shared = Away()
    store = ResponseStore(shared, MemoryStore(), 60)
    await store.note_maker("a", ["s1"], "m@other", alone=True)
    await store.note_maker("a", ["s2"], "m@b", alone=True)
    assert await store.makers("a", ["s1", "s2"]) == {"s1": "m@b", "s2": "m@b"}
    assert await store.makers("a", ["s2", "s1"]) == {"s1": "m@other", "s2": "m@other"}
