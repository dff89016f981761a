"""The store within a process: bounded, least recently used out first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.state.memory import MemoryStore


async def test_memory_store_lets_go_of_what_was_used_least_recently() -> None:
    """Reading a value keeps it; the one nobody asked for makes room."""
    store = MemoryStore(max_bytes=20)
    await store.put("a", b"x" * 9, 60)
    await store.put("b", b"x" * 9, 60)
    await store.get("a")
    await store.put("c", b"x" * 9, 60)
    assert await store.get("b") is None
    assert await store.get("a") is not None
    assert await store.get("c") is not None


async def test_memory_store_does_not_keep_what_exceeds_its_bound() -> None:
    """A value too large for the whole store is not kept, and its predecessor is gone."""
    store = MemoryStore(max_bytes=10)
    await store.put("a", b"small", 60)
    await store.put("a", b"x" * 11, 60)
    assert await store.get("a") is None


async def test_memory_store_counts_its_keys() -> None:
    """Empty values do not make it boundless."""
    store = MemoryStore(max_bytes=100)
    for index in range(1000):
        await store.put(f"{index:010}", b"", 60)
    assert len(store._entries) == 10


async def test_memory_store_follows_its_clock() -> None:
    """A value is there until its time is over, to the tick."""
    now = 100.0
    store = MemoryStore(clock=lambda: now)
    await store.put("a", b"v", 5)
    now = 104.9
    assert await store.get("a") == b"v"
    now = 105.0
    assert await store.get("a") is None
    assert store._bytes == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.binary(max_size=12), st.integers(0, 3), st.integers(0, 2)), max_size=60
    )
)
async def test_memory_store_never_exceeds_its_bound(steps: list[tuple[str, bytes, int, int]]) -> None:
    """Whatever is put, read and expires, the count is right, the bound holds, and values are the last put."""
    now = 0.0
    store = MemoryStore(max_bytes=25, clock=lambda: now)
    last: dict[str, bytes] = {}
    for key, value, ttl, passed in steps:
        now += passed
        if value:
            await store.put(key, value, ttl)
            last[key] = value
        else:
            assert await store.get(key) in (None, last.get(key))
        assert store._bytes == sum(len(name) + len(kept) for name, (_, kept) in store._entries.items()) <= 25
