"""The keeper brings leases from a real store, and does without one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from router.limits.keeper import LeaseKeeper
from router.limits.leases import Ask, LeaseStore
from router.limits.limiter import Limiter
from router.state.memory import MemoryStore
from router.state.redis import RedisStore
from router.types import Deployment, Model
from tests.router.limits.worlds import BACKEND, Limits
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Snapshot:
    """A registry of one moment."""

    models: dict[str, Model]


def deployment(rpm: int) -> Deployment:
    """Return a deployment with a name of its own."""
    name = secrets.token_hex(6)
    return Deployment(f"{name}@b", name, BACKEND, name, limits=Limits(rpm=rpm))


def registry(*deployments: Deployment) -> Snapshot:
    """Return a registry of some deployments."""
    return Snapshot({found.model: Model(found.model, (found,)) for found in deployments})


@asynccontextmanager
async def kept(store: LeaseStore, snapshot: Snapshot, of: int = 1) -> AsyncIterator[Limiter]:
    """A limiter with a keeper at work."""
    limiter = Limiter(lambda limit: limit // of, shared=True)
    keeper = LeaseKeeper(limiter, store, lambda: snapshot, secrets.token_hex(4))
    await keeper.renew()
    work = asyncio.ensure_future(keeper.run())
    try:
        yield limiter
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        await keeper.close()


async def spend(limiter: Limiter, place: Deployment) -> int:
    """Start as many requests as may be; return how many."""
    started = 0
    for _ in range(60):
        while limiter.reserve(place, 1) is not None:
            started += 1
        await asyncio.sleep(0.01)
    return started


async def test_deployment_of_the_registry_has_room_at_once() -> None:
    """The first request finds a lease that nobody had to wait for."""
    place = deployment(600)
    async with kept(MemoryStore(), registry(place)) as limiter:
        assert limiter.reserve(place, 1) is not None


async def test_two_processes_spend_a_limit_exactly(valkey: ValkeyProcess) -> None:
    """Over a real store two greedy processes start as many requests as the limit says, together."""
    place = deployment(500)
    stores = [RedisStore(valkey.url, budget=10.0) for _ in range(2)]
    for store in stores:
        assert await store.connect()
    async with kept(stores[0], registry(place)) as first, kept(stores[1], registry(place)) as second:
        counts = [0, 0]

        async def more(number: int, limiter: Limiter) -> None:
            counts[number] += await spend(limiter, place)

        async def all_spent() -> bool:
            await asyncio.gather(more(0, first), more(1, second))
            return sum(counts) >= 500

        await eventually(all_spent)
        await asyncio.gather(more(0, first), more(1, second))
    assert sum(counts) == 500
    for store in stores:
        await store.close()


async def test_deployment_that_comes_later_gets_its_lease() -> None:
    """A registry that changes is noticed; so is a request for what nobody has announced."""
    place, snapshot = deployment(60), registry()
    async with kept(MemoryStore(), snapshot) as limiter:
        assert limiter.reserve(place, 1) is None
        await eventually(lambda: limiter.reserve(place, 1) is not None)


async def test_process_goes_on_with_its_share_and_comes_back(own_valkey: ValkeyProcess) -> None:
    """Without its store a process has its share; with it again, the whole limit counts what was spent meanwhile."""
    place = deployment(40)
    store = RedisStore(own_valkey.url, budget=1.0, cooldown=0.05)
    assert await store.connect()
    async with kept(store, registry(place), of=2) as limiter:
        own_valkey.kill()
        await eventually(lambda: limiter.away)
        assert await spend(limiter, place) <= 40
        own_valkey.start()
        await eventually(lambda: not limiter.away)
        assert await spend(limiter, place) <= 20
    await store.close()


async def test_process_that_never_had_a_store_has_its_share() -> None:
    """A limit of forty is twenty for one of two."""
    place = deployment(40)
    store = RedisStore("redis://127.0.0.1:1/0")
    assert not await store.connect()
    async with kept(store, registry(place), of=2) as limiter:
        assert await spend(limiter, place) == 20
    await store.close()


async def test_closed_keeper_returns_its_leases() -> None:
    """A process that ends in order leaves nothing behind that others would have to wait for."""
    place, store = deployment(600), MemoryStore()
    async with kept(store, registry(place)) as limiter:
        assert limiter.reserve(place, 1) is not None
    ask = Ask(f"rpm:{place.id}", 600, 60_000, want=600)
    assert (await store.lease("next", [ask], 5))[0].units == 599
