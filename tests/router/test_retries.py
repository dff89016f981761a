"""Asking again: how long a request waits for a cluster, and who is known to be one."""

from __future__ import annotations

import pytest

from router.health import HealthBoard
from router.retries import Retries, WaitingRoom
from router.trail import Trail
from router.types import Backend, Candidate, Deployment, Model, Tier
from shared.errors import ServiceError, UpstreamOverloaded, UpstreamStarting, UpstreamTimeout, UpstreamUnauthorized

STARTING = UpstreamStarting("starting", retry_after=10)


class Clock:
    """A clock that only moves when something sleeps on it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.pauses.append(seconds)
        self.now += seconds


def candidate(tier: Tier = "cluster", name: str = "b") -> Candidate:
    """Return a candidate of some tier."""
    place = Deployment(f"m@{name}", "m", Backend(name, "openai", "http://127.0.0.1:1", tier), "up")
    return Candidate(Model("m", (place,)), place)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock on which the retries sleep."""
    made = Clock()
    monkeypatch.setattr("router.retries.asyncio.sleep", made.sleep)
    return made


def retries(clock: Clock, seconds: float = 120, *, lasts: float = 600, most: int = 1, waits: bool = True) -> Retries:
    """Return the retries of one request."""
    return Retries(HealthBoard(clock), WaitingRoom(seconds, most), clock, clock.now + lasts, waits=waits)


@pytest.mark.parametrize(("seconds", "lasts"), [(120, 600), (600, 120), (7, 600), (600, 1)])
async def test_wait_asks_less_and_less_often_and_ends_in_time(clock: Clock, seconds: float, lasts: float) -> None:
    """The pauses grow to five seconds, the last question comes just before the end, and none after it."""
    began, asked, cold = clock.now, retries(clock, seconds, lasts=lasts), candidate()
    asked.note(cold, STARTING)
    while await asked.next(0) is cold:
        asked.note(cold, STARTING)
    waited, bound = clock.now - began, min(seconds, lasts)
    assert bound - 2 < waited < bound
    assert max(clock.pauses) <= 5
    assert min(clock.pauses) >= 0.25
    assert clock.pauses[0] == min(1, bound / 2)


@pytest.mark.parametrize(
    ("error", "again"),
    [(STARTING, True), (UpstreamOverloaded("full", retry_after=60), True), (UpstreamUnauthorized("key"), False)],
)
async def test_wait_goes_on_whatever_is_said_but_a_refused_key(clock: Clock, error: ServiceError, again: bool) -> None:
    """A key that is refused is refused after the start too."""
    asked, cold = retries(clock), candidate()
    asked.defer(cold)
    assert await asked.next(0) is cold
    asked.note(cold, error)
    asked.note(cold, error)
    assert (await asked.next(0) is cold) == again
    assert await asked.next(0) is None  # told twice, it is asked once


async def test_room_is_left_once(clock: Clock) -> None:
    """However often a request leaves, its place is one."""
    told: list[tuple[str, int]] = []
    room = WaitingRoom(10, 1, lambda backend, change: told.append((backend, change)))
    first, second = (Retries(HealthBoard(clock), room, clock, clock.now + 60, waits=True) for _ in range(2))
    for asked in (first, second):
        asked.defer(candidate())
    await first.next(0)
    with pytest.raises(UpstreamStarting):
        await second.next(0)
    for _ in range(2):
        second.leave()
        first.leave()
    assert told == [("b", 1), ("b", -1)]
    second.defer(candidate())
    assert await second.next(0) is not None


@pytest.mark.parametrize("tier", ["local", "external"])
async def test_only_a_cluster_is_waited_for(clock: Clock, tier: Tier) -> None:
    """Nobody else starts because it is asked."""
    asked = retries(clock)
    asked.note(candidate(tier), STARTING)
    assert await asked.next(5) is None
    assert asked.until == 0


async def test_request_that_does_not_wait_asks_a_cold_cluster_once(clock: Clock) -> None:
    """Where nobody waits, whoever was put off is still somebody to ask, while there are attempts."""
    asked, cold = retries(clock, waits=False), candidate()
    asked.defer(cold)
    assert await asked.next(1) is cold
    asked.note(cold, STARTING)
    assert await asked.next(1) is None
    asked.defer(cold)
    assert await asked.next(0) is None
    assert clock.pauses == []


async def test_request_that_does_not_wait_asks_everybody_who_was_put_off(clock: Clock) -> None:
    """A cluster that was just found cold does not stand in the way of one that may have started meanwhile."""
    asked, cold, known = retries(clock, waits=False), candidate(), candidate(name="other")
    asked.note(cold, STARTING)
    asked.defer(known)
    assert await asked.next(1) is known


def test_silence_to_the_end_is_a_start_that_lasts(clock: Clock) -> None:
    """Other last words are told as they are."""
    asked, full = retries(clock), UpstreamOverloaded("full")
    assert isinstance(asked.verdict(UpstreamTimeout("late")), UpstreamStarting)
    assert asked.verdict(full) is full


def test_health_of_a_cluster_that_starts(clock: Clock) -> None:
    """It is no fault, closes the breaker, is looked at again every half minute, and ends with a good answer."""
    board, place = HealthBoard(clock), candidate().deployment
    board.fail(place, UpstreamUnauthorized("key"))
    assert not board.snapshot()[place.id].available
    board.fail(place, STARTING)
    assert board.snapshot()[place.id].available
    assert not board.spare(place)
    assert not board.look_again(place)
    clock.now += 31
    assert [board.look_again(place) for _ in range(2)] == [True, False]
    board.succeed(place, 10)
    assert (dict(board.starting), board.spare(place)) == ({}, True)
    elsewhere = candidate("external", "e").deployment
    board.fail(elsewhere, STARTING)
    assert dict(board.starting) == {}
    assert board.snapshot()[elsewhere.id].failure_rate > 0


def test_trail_tells_one_wait_as_one_attempt() -> None:
    """However often a cluster was asked meanwhile; another deployment's wait is another."""
    trail, places = Trail(100.0), [candidate(name=name).deployment for name in "ab"]
    for second in (101, 102, 103):
        trail.note(places[0], second, second + 0.5, "model_starting")
    trail.note(places[1], 105, 106, "model_starting")
    trail.note(places[0], 107, 108, None)
    told = [(note.deployment, note.started_ms, note.duration_ms, note.error) for note in trail.attempts]
    assert told == [
        ("m@a", 1000, 2500, "model_starting"),
        ("m@b", 5000, 1000, "model_starting"),
        ("m@a", 7000, 1000, None),
    ]
