"""Every `StateStore` keeps the same promises."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from router.interfaces import StateStore
from router.state.memory import MemoryStore
from router.state.redis import RedisStore
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[StateStore]:
    """An open store of each kind."""
    if request.param == "memory":
        yield MemoryStore()
        return
    valkey: ValkeyProcess = request.getfixturevalue("valkey")
    # The budget is no part of these promises; a busy machine must not make them break.
    redis = RedisStore(valkey.url, budget=10.0)
    assert await redis.connect()
    yield redis
    await redis.close()


@pytest.fixture
def key() -> str:
    """A key that no other test uses."""
    return f"test:{secrets.token_hex(8)}"


async def test_store_is_available(store: StateStore) -> None:
    """An open store says that it answers."""
    assert store.available


async def test_store_finds_nothing_under_an_unknown_key(store: StateStore, key: str) -> None:
    """What was never put is None."""
    assert await store.get(key) is None


@pytest.mark.parametrize(
    "value", [b"", b"v", b"\x00\xff\r\n$-1\r\n", b"x" * 2_000_000], ids=["empty", "v", "raw", "big"]
)
async def test_store_returns_the_bytes_that_were_put(store: StateStore, key: str, value: bytes) -> None:
    """Any bytes come back as they were."""
    await store.put(key, value, 60)
    assert await store.get(key) == value


async def test_store_keeps_the_last_of_two_values(store: StateStore, key: str) -> None:
    """A second put replaces the first."""
    await store.put(key, b"first", 60)
    await store.put(key, b"second", 60)
    assert await store.get(key) == b"second"


async def test_store_forgets_a_value_when_its_time_is_over(store: StateStore, key: str) -> None:
    """A value lives for its time to live and no longer."""
    await store.put(key, b"brief", 0.05)

    async def gone() -> bool:
        return await store.get(key) is None

    await eventually(gone)


async def test_store_gives_a_new_value_a_new_life(store: StateStore, key: str) -> None:
    """Putting again starts the time anew, longer or shorter."""
    await store.put(key, b"long", 3600)
    await store.put(key, b"brief", 0.05)

    async def gone() -> bool:
        return await store.get(key) is None

    await eventually(gone)
    await store.put(key, b"long again", 3600)
    assert await store.get(key) == b"long again"


async def test_store_lets_one_of_many_put_what_is_absent(store: StateStore, key: str) -> None:
    """Of many that claim a key at once, one gets it; the value stays that one's until it is forgotten or too old."""
    claims = await asyncio.gather(*(store.put_if_absent(key, b"%d" % index, 60) for index in range(20)))
    assert sorted(map(bool, claims)) == [False] * 19 + [True]
    assert await store.get(key) == b"%d" % claims.index(True)
    await store.delete(key)
    assert await store.get(key) is None
    assert await store.put_if_absent(key, b"brief", 0.05)

    async def free() -> bool:
        return bool(await store.put_if_absent(key, b"next", 60))

    await eventually(free)
    assert await store.get(key) == b"next"


async def test_store_forgets_what_it_does_not_hold(store: StateStore, key: str) -> None:
    """Deleting an unknown key is no fault."""
    await store.delete(key)
    assert store.available


async def test_store_keeps_keys_apart_under_concurrency(store: StateStore, key: str) -> None:
    """Three hundred calls at a time get each their own answer, and none makes the store go away."""
    names = [f"{key}:{index}" for index in range(300)]
    await asyncio.gather(*(store.put(name, name.encode(), 60) for name in names))
    assert await asyncio.gather(*(store.get(name) for name in names)) == [name.encode() for name in names]
    assert store.available


async def test_store_survives_a_cancelled_call(store: StateStore, key: str) -> None:
    """A caller that leaves in the middle does not hand its answer to the next one."""
    for index in range(30):
        await store.put(f"{key}:{index}", str(index).encode(), 60)
    for index in range(30):
        task = asyncio.ensure_future(store.get(f"{key}:{index}"))
        for _ in range(index % 7):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        assert await store.get(f"{key}:{29 - index}") == str(29 - index).encode()
    assert store.available
