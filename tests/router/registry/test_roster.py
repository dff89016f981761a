"""AgentRoster: joining, beating, going silent and coming back, on a clock that the test holds."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from router.registry.roster import AgentRoster
from router.registry.rows import Announcement
from router.registry.store import RegistryStore, StoreError


class Clock:
    """Milliseconds in the test's hands."""

    def __init__(self) -> None:
        self.now = 1_000_000_000_000

    def __call__(self) -> int:
        """Tell the time."""
        return self.now

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * 1000)


@pytest.fixture
def clock() -> Clock:
    """The test's clock."""
    return Clock()


def mac(id_: str = "a1", *models: str) -> Announcement:
    """Return an announcement."""
    return Announcement(id_, "mac", f"http://{id_}:5000", tuple({"id": model} for model in models or ("m",)))


def state(store: RegistryStore) -> dict[str, bool]:
    """Return which agents are stale."""
    return {row["id"]: row["stale"] for row in store.agents()}


def test_three_missed_beats_are_silence(store: RegistryStore, clock: Clock) -> None:
    """An agent is stale after three intervals and back with its next beat, at once."""
    roster = AgentRoster(store, interval=5, clock=clock)
    roster.register(mac())
    clock.pass_(15)
    roster.sweep()
    assert state(store) == {"a1": False}
    clock.pass_(0.1)
    roster.sweep()
    roster.sweep()
    assert state(store) == {"a1": True}
    assert roster.beat("a1", 1, 2)
    assert state(store) == {"a1": False}
    assert (store.agents()[0]["queued"], store.agents()[0]["running"]) == (1, 2)


def test_beats_keep_an_agent_and_are_not_all_written(store: RegistryStore, clock: Clock) -> None:
    """An agent that beats stays; every second beat reaches the file, and none moves the revision."""
    roster = AgentRoster(store, interval=5, clock=clock)
    roster.register(mac())
    revision = store.revision()
    seen = set()
    for _ in range(10):
        clock.pass_(5)
        assert roster.beat("a1", 0, 0)
        roster.sweep()
        seen.add(store.agents()[0]["last_seen"])
    assert state(store) == {"a1": False}
    assert len(seen) == 6
    assert store.revision() == revision


def test_beat_of_an_unknown_agent(store: RegistryStore, clock: Clock) -> None:
    """Who is not registered is told so, also after being displaced by another at its place."""
    roster = AgentRoster(store, clock=clock)
    assert not roster.beat("a1", 0, 0)
    roster.register(mac())
    store.register_agent(Announcement("a2", "mac", "http://a1:5000", ({"id": "m"},)))
    roster.sweep()
    assert not roster.beat("a1", 0, 0)
    assert roster.beat("a2", 0, 0)


def test_workers_share_agents(store: RegistryStore, clock: Clock) -> None:
    """A beat that one worker heard keeps the other from calling the agent silent."""
    one, other = (AgentRoster(store, interval=5, clock=clock) for _ in range(2))
    one.register(mac())
    for _ in range(8):
        clock.pass_(5)
        assert one.beat("a1", 0, 0)
        other.sweep()
        assert state(store) == {"a1": False}
    assert other.beat("a1", 0, 0)


def test_a_restarted_router_waits_before_it_judges(store: RegistryStore, clock: Clock) -> None:
    """While no router ran none could hear a beat, so silence counts from the start."""
    AgentRoster(store, interval=5, clock=clock).register(mac())
    clock.pass_(3600)
    roster = AgentRoster(store, interval=5, clock=clock)
    roster.sweep()
    assert state(store) == {"a1": False}
    clock.pass_(16)
    roster.sweep()
    assert state(store) == {"a1": True}


def test_agents_gone_for_a_week_are_forgotten(store: RegistryStore, clock: Clock) -> None:
    """The list of agents does not grow for ever."""
    roster = AgentRoster(store, interval=5, clock=clock)
    store.register_agent(mac())
    clock.now = store.agents()[0]["last_seen"] + 8 * 24 * 3600 * 1000
    roster.sweep()
    assert store.agents() == ()


def test_beats_go_on_while_the_registry_is_away(store: RegistryStore, path: Path, clock: Clock) -> None:
    """A known agent's beat is taken without the file; for an unknown one nothing can be said."""
    roster = AgentRoster(store, interval=5, clock=clock)
    roster.register(mac())
    path.rename(path.with_name("aside"))
    clock.pass_(60)
    assert roster.beat("a1", 0, 0)
    with pytest.raises(StoreError):
        roster.beat("a2", 0, 0)
    path.with_name("aside").rename(path)
    roster.sweep()
    assert state(store) == {"a1": False}


async def test_run_sweeps_and_survives_the_registry(store: RegistryStore, path: Path, clock: Clock) -> None:
    """The background task goes on through a registry that is away."""
    paused: asyncio.Queue[float] = asyncio.Queue()
    awake = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await paused.put(seconds)
        await awake.wait()
        awake.clear()

    roster = AgentRoster(store, interval=5, clock=clock, sleep=sleep)
    roster.register(mac())
    shutil.move(path, path.with_name("aside"))
    task = asyncio.create_task(roster.run())
    assert await paused.get() == 1.0
    shutil.move(path.with_name("aside"), path)
    clock.pass_(16)
    awake.set()
    await paused.get()
    assert state(store) == {"a1": True}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_run_sweeps_once_somebody_may_have_come(store: RegistryStore, path: Path, clock: Clock) -> None:
    """With no agent known an untouched registry is left alone; an agent of another worker is found."""
    paused, awake = asyncio.Queue[None](), asyncio.Queue[None]()
    sweeps: list[int] = []

    class Counting(AgentRoster):
        def sweep(self) -> None:
            sweeps.append(1)
            super().sweep()

    async def sleep(_seconds: float) -> None:
        await paused.put(None)
        await awake.get()

    async def rounds(count: int) -> int:
        sweeps.clear()
        for _ in range(count):
            await awake.put(None)
            await paused.get()
        return len(sweeps)

    for file in (path, path.with_name(path.name + "-wal")):
        os.utime(file, (1, 1))
    roster = Counting(store, clock=clock, sleep=sleep)
    task = asyncio.create_task(roster.run())
    await paused.get()
    assert await rounds(9) == 0
    AgentRoster(store, clock=clock).register(mac())
    assert await rounds(1) == 1
    clock.pass_(16)
    assert await rounds(3) == 3
    assert [row["stale"] for row in store.agents()] == [True]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
