"""Limits hold under any interleaving of processes, and nobody is starved far below them."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.limits.limiter import FREE, Limiter
from tests.router.limits.worlds import TTL, World, limited

Step = tuple[str, float, int]
ACTIONS = ("advance", "request", "burst", "end", "send", "arrive", "deliver", "exchange", "kill")
WEIGHTS = st.tuples(*(st.sampled_from([1, 4, 12]) for _ in ACTIONS[:-1]), st.sampled_from([0, 1]))


def written(seed: int, weights: tuple[int, ...]) -> list[Step]:
    """Return a long script; hypothesis itself writes only short ones."""
    chance = random.Random(seed)
    pauses = (0.001, 0.05, 0.1, 0.3, 1.0, 7.0, 20.0, 59.0)
    frequency = (8, 8, 8, 8, 4, 1, 1, 1)
    script: list[Step] = []
    for action in chance.choices(ACTIONS, weights, k=300):
        value = chance.choices(pauses, frequency)[0] if action == "advance" else chance.randint(1, 12)
        script.append((action, value, chance.randrange(3)))
    return script


SCRIPTS = st.builds(written, st.integers(0, 2**32), WEIGHTS)


def play(world: World, script: list[Step], check: Callable[[], None]) -> None:
    """Do what a script says, each step at one of the processes, and check after each."""
    for action, value, place in script:
        number = place % len(world.processes)
        if action == "advance":
            world.now += value
        elif action == "request":
            world.request(number, int(value), used=int(value) // 2)
        elif action == "burst":
            for _ in range(int(value)):
                world.request(number)
        else:
            getattr(world, action)(number)
        check()


@settings(max_examples=150)
@given(st.integers(1, 3), st.integers(1, 20), SCRIPTS)
def test_requests_a_minute_are_never_exceeded(processes: int, rpm: int, script: list[Step]) -> None:
    """In any sliding minute no more than `rpm` requests start, over all processes, whatever happens when."""
    world = World(limited(rpm=rpm), processes)

    def check() -> None:
        assert world.in_window() <= rpm

    play(world, script, check)


@settings(max_examples=150)
@given(st.integers(1, 3), st.integers(1, 60), SCRIPTS)
def test_tokens_a_minute_are_never_exceeded(processes: int, tpm: int, script: list[Step]) -> None:
    """Reserved and used tokens of any sliding minute never exceed `tpm`, though most use less than reserved."""
    world = World(limited(tpm=tpm), processes)

    def check() -> None:
        assert world.tokens_in_window() <= tpm

    play(world, script, check)


@settings(max_examples=150)
@given(st.integers(1, 3), st.integers(1, 8), SCRIPTS)
def test_requests_at_a_time_are_never_exceeded(processes: int, slots: int, script: list[Step]) -> None:
    """No more than `max_concurrency` requests of living processes are open while the store answers in time."""
    world = World(limited(slots=slots), processes)
    slow = [step for step in script if step[0] != "advance" or step[1] < 2]

    def check() -> None:
        for number, process in enumerate(world.processes):
            if process.under_way is None or world.now - process.origin > process.under_way[2] - TTL + 2:
                world.exchange(number)
                world.exchange(number)
        assert world.in_flight() <= slots

    play(world, slow, check)


@settings(max_examples=100)
@given(st.integers(1, 3), st.integers(1, 20), SCRIPTS)
def test_shares_hold_without_a_store(processes: int, rpm: int, script: list[Step]) -> None:
    """Where there never was a store the processes of one host keep the limit together."""
    world = World(limited(rpm=rpm), processes)
    world.lose()
    quiet = [step for step in script if step[0] in ("advance", "request", "burst", "end")]

    def check() -> None:
        assert world.in_window() <= rpm

    play(world, quiet, check)


@settings(max_examples=100)
@given(st.integers(1, 3), st.integers(1, 20), SCRIPTS, SCRIPTS)
def test_losing_the_store_does_not_begin_a_new_minute(
    processes: int, rpm: int, before: list[Step], after: list[Step]
) -> None:
    """What was spent before the store went away still counts afterwards."""
    world = World(limited(rpm=rpm), processes)
    play(world, [step for step in before if step[0] != "kill"], lambda: None)
    for _ in range(4):
        for number in range(processes):
            world.deliver(number)
            world.now += 1
            world.exchange(number)
    world.lose()

    def check() -> None:
        assert world.in_window() <= rpm

    play(world, [step for step in after if step[0] in ("advance", "request", "burst", "end")], check)


def steady(world: World, rate: float, seconds: float, processes: int = 1, latency: float = 0.002) -> tuple[int, int]:
    """Offer requests at a steady rate, renewing as the keeper does; return how many were let in and refused."""
    begun, refused = len(world.started), world.refused
    start, sent = world.now, 0
    ticks = [start] * processes
    returns: dict[int, float] = {}
    while world.now < start + seconds:
        coming = start + (sent + 1) / rate
        world.now = min([coming, *(tick + 0.1 for tick in ticks), *returns.values()])
        if world.now == coming:
            world.request(sent % processes, used=1)
            world.end(sent % processes)
            sent += 1
        for number in range(processes):
            if returns.get(number, float("inf")) <= world.now:
                del returns[number]
                world.deliver(number)
            if number not in returns and (world.processes[number].roused or world.now >= ticks[number] + 0.1):
                ticks[number] = world.now
                world.send(number)
                world.arrive(number)
                if world.processes[number].under_way is not None:
                    returns[number] = world.now + latency
    return len(world.started) - begun, world.refused - refused


@pytest.mark.parametrize(
    ("rpm", "processes", "share"), [(6, 1, 0.95), (30, 1, 0.95), (600, 1, 0.95), (6000, 1, 0.95), (600, 4, 0.8)]
)
def test_steady_load_below_the_limit_is_never_refused(rpm: int, processes: int, share: float) -> None:
    """A process that stays a twentieth below its limit is never refused, nor are several a fifth below."""
    world = World(limited(rpm=rpm), processes)
    for number in range(processes):
        world.exchange(number)
    _, refused = steady(world, rate=share * rpm / 60, seconds=125, processes=processes)
    assert refused == 0


@pytest.mark.parametrize("rpm", [30, 600, 6000])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_steady_load_above_the_limit_gets_nearly_all_of_it(rpm: int, processes: int) -> None:
    """Of a limit that is asked for twice over, 95 in 100 are used, but for what several hold for each other."""
    world = World(limited(rpm=rpm), processes)
    for number in range(processes):
        world.exchange(number)
    steady(world, rate=2 * rpm / 60, seconds=70, processes=processes)
    let_in, _ = steady(world, rate=2 * rpm / 60, seconds=183, processes=processes)
    assert let_in >= 0.95 * 3 * rpm - 3 * (processes - 1)


def test_idle_process_gives_up_what_another_needs() -> None:
    """A limit may be spent to its end by one process while the others rest."""
    world = World(limited(rpm=30), 3)
    for number in range(3):
        world.exchange(number)
    for _ in range(200):
        world.request(0)
        world.now += 0.1
        for number in range(3):
            world.exchange(number)
    assert len(world.started) == 30


def test_first_requests_of_a_rested_process_are_let_in() -> None:
    """Leases are there before they are needed: a burst after a rest finds room at once."""
    world = World(limited(rpm=600, tpm=100_000, slots=64), 2)
    for _ in range(3):
        for number in range(2):
            world.now += 1
            world.exchange(number)
    assert all(world.request(0, tokens=1000) for _ in range(16))


def test_limiter_without_limits_reserves_nothing() -> None:
    """A deployment without limits is always free."""
    assert Limiter().reserve(limited(), 1000) is FREE
    FREE.release()
    FREE.settle(7)


def test_request_larger_than_the_limit_gets_all_of_it() -> None:
    """A prompt that exceeds a minute's tokens is let in once nothing else is, and then nothing is for long."""
    now = [1000.0]
    limiter, deployment = Limiter(clock=lambda: now[0]), limited(tpm=100)
    reservation = limiter.reserve(deployment, 5000)
    assert reservation is not None
    reservation.settle(5000)
    assert limiter.reserve(deployment, 1) is None
    now[0] += 62
    assert limiter.reserve(deployment, 1) is not None


def test_settling_gives_back_what_was_not_used() -> None:
    """Tokens that were reserved in vain are free again, in whatever order reports and settlements come."""
    world = World(limited(tpm=100), 1)
    world.exchange(0)
    world.exchange(0)
    assert world.request(0, tokens=50, used=10)
    world.end(0)
    world.exchange(0)
    world.now += 1
    assert world.request(0, tokens=60, used=5) or world.exchange(0) or world.request(0, tokens=60, used=5)
    world.exchange(0)
    world.end(0)
    world.now += 1
    world.exchange(0)
    world.now += 1
    world.exchange(0)
    assert world.tokens_in_window() == 15
    assert world.request(0, tokens=85) or world.exchange(0) or world.request(0, tokens=85)


def test_repeated_release_and_settle_do_nothing() -> None:
    """An attempt that is ended twice frees one slot."""
    limiter, deployment = Limiter(), limited(slots=1, tpm=10)
    first = limiter.reserve(deployment, 10)
    assert first is not None
    for _ in range(3):
        first.release()
        first.settle(0)
    second = limiter.reserve(deployment, 10)
    assert second is not None
    assert limiter.reserve(deployment, 1) is None


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"slots": 1}, "1 requests are in flight"),
        ({"rpm": 1}, "1 requests a minute are used up"),
        ({"tpm": 5}, "5 tokens a minute are used up"),
    ],
)
def test_refusal_says_why_and_when(limits: dict[str, int], reason: str) -> None:
    """Whoever is refused learns what is used up and after how long to come again."""
    now = [1000.0]
    limiter, deployment = Limiter(clock=lambda: now[0]), limited(**limits)
    assert limiter.reserve(deployment, 5) is not None
    now[0] += 20
    assert limiter.reserve(deployment, 5) is None
    refusal = limiter.refusal(deployment, 5)
    assert refusal.reason == reason
    assert 1 <= refusal.retry_after <= 61


def test_changed_limits_hold_at_once() -> None:
    """A manifest with other numbers takes effect with what was spent before."""
    limiter = Limiter()
    assert [limiter.reserve(limited(rpm=3), 1) is not None for _ in range(4)] == [True, True, True, False]
    assert [limiter.reserve(limited(rpm=5), 1) is not None for _ in range(3)] == [True, True, False]
    assert limiter.reserve(limited(), 1) is FREE


def test_forgotten_deployments_leave_nothing() -> None:
    """What the registry no longer names is forgotten, unless a request is still under way."""
    limiter = Limiter()
    held = limiter.reserve(limited(slots=1), 1)
    assert held is not None
    limiter.learn([])
    assert len(list(chain(*limiter.due()))) == 1
    held.release()
    limiter.learn([])
    assert list(chain(*limiter.due())) == []
