"""Every `LeaseStore` keeps the same promises."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from router.limits.leases import Ask, Grant, LeaseStore
from router.state.memory import MemoryStore
from router.state.redis import RedisStore
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

MINUTE = 60_000


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[LeaseStore]:
    """An open store of each kind."""
    if request.param == "memory":
        yield MemoryStore()
        return
    valkey: ValkeyProcess = request.getfixturevalue("valkey")
    redis = RedisStore(valkey.url, budget=10.0)
    assert await redis.connect()
    yield redis
    await redis.close()


class Holder:
    """One process's side, told by hand."""

    def __init__(self, store: LeaseStore, key: str, limit: int, window: int = MINUTE, ttl: float = 60) -> None:
        self.store, self.key, self.limit, self.window, self.ttl = store, key, limit, window, ttl
        self.name = secrets.token_hex(8)
        self.era = 0

    async def ask(self, want: int, **more: Any) -> Grant:
        """Report and ask."""
        told = {"era": self.era, **more}
        grants = await self.store.lease(
            self.name, [Ask(self.key, self.limit, self.window, want=want, **told)], self.ttl
        )
        assert grants is not None
        self.era = grants[0].era
        return grants[0]


@pytest.fixture
def key() -> str:
    """A limit that no other test uses."""
    return f"test:{secrets.token_hex(8)}"


async def test_leases_never_exceed_the_limit(store: LeaseStore, key: str) -> None:
    """Whoever comes first gets what is wanted, the next what is left, the last nothing."""
    holders = [Holder(store, key, 10) for _ in range(3)]
    grants = [await holder.ask(6) for holder in holders]
    assert [grant.units for grant in grants] == [6, 4, 0]
    assert [grant.free for grant in grants] == [4, 0, 0]
    assert [grant.holders for grant in grants] == [1, 2, 3]
    assert [grant.wait > 0 for grant in grants] == [False, True, True]


async def test_leases_never_exceed_the_limit_under_concurrency(store: LeaseStore, key: str) -> None:
    """Forty processes that ask at the same moment share what there is."""
    holders = [Holder(store, key, 100) for _ in range(40)]
    grants = await asyncio.gather(*(holder.ask(7) for holder in holders))
    assert sum(grant.units for grant in grants) == 100


async def test_spent_units_are_gone_and_kept_ones_stay(store: LeaseStore, key: str) -> None:
    """A holder that spends three of six and keeps one returns two."""
    first, second = Holder(store, key, 6), Holder(store, key, 6)
    await first.ask(6)
    grant = await first.ask(1, total=3, keep=1)
    assert (grant.kept, grant.units, grant.free) == (True, 0, 2)
    assert (await second.ask(5)).units == 2


async def test_same_report_counts_once(store: LeaseStore, key: str) -> None:
    """A report whose answer was lost is sent again, with what has come since."""
    holder = Holder(store, key, 10)
    await holder.ask(5)
    for total in (2, 2, 3):
        grant = await holder.ask(0, total=total)
    assert grant.free == 7


async def test_window_slides(store: LeaseStore, key: str) -> None:
    """What has been spent comes back after a window, and not before."""
    holder = Holder(store, key, 3, window=1200)
    await holder.ask(3)
    spent = await holder.ask(1, total=3)
    assert spent.units == 0
    assert 0 < spent.wait <= 1220

    async def back() -> bool:
        return (await holder.ask(1, total=3, acked=3)).free == 2

    await eventually(back)


@pytest.mark.parametrize(("window", "left"), [(MINUTE, 0), (0, 5)])
async def test_lease_ends_by_itself(store: LeaseStore, key: str, window: int, left: int) -> None:
    """A lease of a killed process counts as spent; a slot is free, for nobody uses it any more."""
    dead, alive = Holder(store, key, 5, window, ttl=0.05), Holder(store, key, 5, window)
    must = {} if window else {"must": 5}
    await dead.ask(5, **must)

    async def buried() -> bool:
        return (await alive.ask(0)).holders == 1

    await eventually(buried)
    assert (await alive.ask(5)).units == left
    late = await dead.ask(5, keep=5)
    assert not late.kept
    assert late.units == 0


async def test_refund_goes_back_to_its_step(store: LeaseStore, key: str) -> None:
    """Units that were not needed are free again; a step that knows less than that gives only what it has."""
    holder = Holder(store, key, 100)
    await holder.ask(50)
    step = (await holder.ask(0, total=50)).step
    assert (await holder.ask(0, total=50, refunds=((step, 20),))).free == 70
    assert (await holder.ask(0, total=50, refunds=((step, 500), (step - 100, 7)))).free == 100


async def test_slots_in_use_count_whatever_the_store_knows(store: LeaseStore, key: str) -> None:
    """Requests that are under way are under way, even beyond the limit."""
    holder, other = Holder(store, key, 4, window=0), Holder(store, key, 4, window=0)
    grant = await holder.ask(8, keep=8, must=6)
    assert (grant.kept, grant.units, grant.free) == (False, 0, 0)
    assert (await other.ask(1)).units == 0
    assert (await holder.ask(1, keep=1, must=1)).free == 3


async def test_others_learn_that_somebody_goes_short(store: LeaseStore, key: str) -> None:
    """Hunger is for those who need more, not for those who would only like more."""
    full, wishful, short = (Holder(store, key, 5) for _ in range(3))
    await full.ask(5)
    await wishful.ask(3)
    assert not (await full.ask(5, keep=5)).hungry
    await short.ask(3, need=1)
    assert (await full.ask(5, keep=5)).hungry


async def test_new_memory_is_told_of_the_last_window(store: LeaseStore, key: str) -> None:
    """A store that does not know a limit takes over what its holders remember."""
    holder = Holder(store, key, 10)
    assert (await holder.ask(10, total=50, acked=50, recent=8)).units == 2


async def test_one_call_serves_many_limits(store: LeaseStore, key: str) -> None:
    """Grants come in the order of the asks."""
    asks = [Ask(f"{key}:{number}", number, MINUTE, want=1000) for number in range(1, 120)]
    grants = await store.lease("me", asks, 60)
    assert grants is not None
    assert [grant.units for grant in grants] == list(range(1, 120))
