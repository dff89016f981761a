"""hedging: what it may spend, who may be asked twice, and the race of two."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from router.hedging import HedgeBudget, hedgeable, race
from router.types import Hedge, Wishes
from shared.errors import UpstreamRejected
from tests.router.test_dispatch import request_for

# --- the budget -----------------------------------------------------------------------------------


@given(budget=st.floats(0.001, 1), tries=st.lists(st.booleans(), max_size=400))
def test_budget_bounds_second_requests(budget: float, tries: list[bool]) -> None:
    """However they come, there are never more second requests than the budget's share of the first ones."""
    purse, hedge, spent = HedgeBudget(), Hedge(budget), 0
    for asked, wants in enumerate(tries, 1):
        purse.save("p", hedge)
        spent += wants and purse.spend("p")
        assert spent <= budget * asked + 1e-6


def test_budget_keeps_no_more_than_a_burst_and_each_policys_own() -> None:
    """A long quiet time buys ten second requests at 5 %, to nobody but the policy that was quiet."""
    purse = HedgeBudget()
    for _ in range(10_000):
        purse.save("p", Hedge(0.05))
    assert not purse.spend("other")
    assert [purse.spend("p") for _ in range(12)] == [True] * 10 + [False] * 2


def test_budget_of_a_twentieth_affords_one_in_twenty() -> None:
    """Twenty requests save up exactly one, whatever the arithmetic of floats says."""
    purse = HedgeBudget()
    afforded = []
    for _ in range(40):
        purse.save("p", Hedge(0.05))
        afforded.append(purse.spend("p"))
    assert [number for number, can in enumerate(afforded, 1) if can] == [20, 40]


def test_only_streams_that_may_fall_back_are_hedgeable() -> None:
    """A whole answer, a request without fallback and a pinned one are never sent twice."""
    assert hedgeable(request_for())
    assert not hedgeable(request_for(stream=False))
    assert not hedgeable(request_for(wishes=Wishes(fallback=False)))
    assert not hedgeable(structs.replace(request_for(), pin="m0@b0"))


# --- the race -------------------------------------------------------------------------------------


class Runner:
    """One side of a race; it waits until it is told what to come to."""

    def __init__(self) -> None:
        self.told: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.cancelled = False

    async def run(self) -> str | None:
        """Come to what is told."""
        try:
            return await self.told
        except asyncio.CancelledError:
            self.cancelled = True
            raise


class Race:
    """Two runners, with a note of what is called."""

    def __init__(self, delay: float = 0.0) -> None:
        self.first, self.second = Runner(), Runner()
        self.began = asyncio.Event()
        self.settled = 0
        self.late: list[str] = []
        self.result = asyncio.ensure_future(race(self.first.run(), delay, self._second, self._settle, self._late))

    def _second(self) -> Coroutine[Any, Any, str | None]:
        self.began.set()
        return self.second.run()

    def _settle(self) -> None:
        self.settled += 1

    async def _late(self, result: str) -> None:
        self.late.append(result)


@pytest.mark.parametrize("second_wins", [False, True])
async def test_race_takes_the_faster_and_cancels_the_slower(second_wins: bool) -> None:
    """The one that comes to something wins; the other has been cancelled when the race returns."""
    run = Race()
    await run.began.wait()
    winner, loser = (run.second, run.first) if second_wins else (run.first, run.second)
    await asyncio.sleep(0)
    winner.told.set_result("yes")
    assert await run.result == "yes"
    assert loser.cancelled
    assert run.settled == 1
    assert run.late == []


async def test_race_has_no_second_where_the_first_is_soon() -> None:
    """Nobody else begins when the first is done before the delay, whatever it comes to."""
    for outcome in ("yes", None):
        run = Race(delay=60)
        await asyncio.sleep(0)
        run.first.told.set_result(outcome)
        assert await run.result == outcome
        assert not run.began.is_set()


async def test_race_ends_one_that_comes_in_at_the_same_moment() -> None:
    """Where both come to something in one turn, the first is taken and the other is ended."""
    run = Race()
    await run.began.wait()
    await asyncio.sleep(0)
    run.first.told.set_result("yes")
    run.second.told.set_result("also")
    assert await run.result == "yes"
    assert run.late == ["also"]


async def test_race_goes_on_with_the_other_where_one_comes_to_nothing() -> None:
    """One that fails leaves the field to the other; where both do, there is nothing."""
    run = Race()
    await run.began.wait()
    run.first.told.set_result(None)
    await asyncio.sleep(0)
    assert not run.result.done()
    run.second.told.set_result("yes")
    assert await run.result == "yes"
    nothing = Race()
    await nothing.began.wait()
    nothing.first.told.set_result(None)
    nothing.second.told.set_result(None)
    assert await nothing.result is None


async def test_race_that_raises_or_is_cancelled_leaves_nobody_running() -> None:
    """A verdict ends both, and so does the client that leaves."""
    run = Race()
    await run.began.wait()
    await asyncio.sleep(0)
    run.second.told.set_exception(UpstreamRejected(422, {}))
    with pytest.raises(UpstreamRejected):
        await run.result
    assert run.first.cancelled
    left = Race()
    await left.began.wait()
    await asyncio.sleep(0)
    left.result.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left.result
    assert left.first.cancelled
    assert left.second.cancelled
    assert left.settled == 0
