"""CatalogSource: follows the registry, and keeps the last good catalog whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from router.registry.catalog import CatalogSource
from router.registry.manifest import parse_manifest
from router.registry.revision import Stamp, Trace
from router.registry.store import RegistryStore, open_store
from tests.support.waiting import eventually

MANIFEST = 'models: [{id: m, aliases: [x]}]\nbackends: [{name: b, dialect: openai, base_url: "http://h", tier: local}]'


async def test_refresh_follows_the_registry(store: RegistryStore, path: Path) -> None:
    """A change of another process is in force after the next look; without one, the snapshot stays the same object."""
    source = CatalogSource(store)
    assert not source.loaded
    await source.refresh()
    first = source.current
    assert source.loaded
    await source.refresh()
    assert source.current is first
    other = open_store(path)
    made = other.create_key("a")
    other.close()
    await source.refresh()
    assert source.current.caller(made.key) is not None
    assert first.caller(made.key) is None


async def test_refresh_is_shared_by_all_who_wait_for_a_registry_that_hangs(store: RegistryStore) -> None:
    """However many ask for it, there is one look under way and one behind it, and nobody waits longer than told."""
    gate, asked = threading.Event(), 0

    class Hanging(RegistryStore):
        def stamp(self) -> Stamp:
            nonlocal asked
            asked += 1
            gate.wait()
            return super().stamp()

    source = CatalogSource(Hanging(store.database))
    assert not await source.refresh(0)
    await eventually(lambda: asked == 1)
    waiting = [asyncio.ensure_future(source.refresh()) for _ in range(20)]
    assert not await source.refresh(0)
    gate.set()
    assert all(await asyncio.gather(*waiting))
    assert asked == 2


async def test_refresh_keeps_the_last_state_while_the_file_is_away(
    store: RegistryStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A vanished registry is told once and recovered from without a restart."""
    store.create_key("a")
    source = CatalogSource(store)
    await source.refresh()
    shutil.move(path, path.with_name("aside"))
    caplog.set_level(logging.INFO)
    for _ in range(3):
        await source.refresh()
    assert source.current.has_keys
    assert source.problem is not None
    assert len(caplog.records) == 1
    shutil.move(path.with_name("aside"), path)
    await source.refresh()
    assert source.problem is None
    assert [record.message for record in caplog.records][1:] == ["the registry is read again"]


async def test_refresh_survives_a_damaged_file(store: RegistryStore, path: Path) -> None:
    """A file overwritten with rubbish keeps the last state in force and says why."""
    store.create_key("a")
    source = CatalogSource(store)
    await source.refresh()
    rubbish = path.with_name("rubbish")
    rubbish.write_bytes(b"rubbish " * 4096)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    rubbish.replace(path)
    await source.refresh()
    assert source.current.has_keys
    assert source.problem is not None
    assert "not a database" in source.problem


async def test_refresh_notices_another_file_at_the_same_revision(
    store: RegistryStore, path: Path, tmp_path: Path
) -> None:
    """A restored copy is read even where its revision is that of the file it replaces."""
    store.create_key("old")
    source = CatalogSource(store)
    await source.refresh()
    other = open_store(tmp_path / "other.db")
    made = other.create_key("restored")
    other.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    shutil.move(tmp_path / "other.db", path)
    await source.refresh()
    assert source.current.caller(made.key) is not None


async def test_refresh_survives_a_locked_registry(store: RegistryStore, path: Path) -> None:
    """A writer that holds its lock does not keep readers from the last committed state."""
    source = CatalogSource(store)
    locker = sqlite3.connect(path, isolation_level=None)
    try:
        locker.execute("BEGIN IMMEDIATE")
        await source.refresh()
        assert source.problem is None
        assert source.loaded
    finally:
        locker.close()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("""UPDATE models SET fallbacks = '["zz"]'""", "falls back to 'zz'"),
        ("UPDATE models SET quality = '[[1]]'", "cannot be understood"),
    ],
)
async def test_refresh_refuses_an_invalid_state(store: RegistryStore, statement: str, reason: str) -> None:
    """Rows changed by other hands into nonsense leave the last good catalog in force, until they are mended."""
    store.apply(parse_manifest(MANIFEST))
    source = CatalogSource(store)
    await source.refresh()
    good = source.current
    with store.database.writing() as connection:
        connection.execute(text(statement))
        connection.execute(text("UPDATE registry_state SET revision = revision + 1"))
    for _ in range(2):
        await source.refresh()
        assert source.current is good
        assert source.problem is not None
        assert reason in source.problem
    with store.database.writing() as connection:
        connection.execute(text("UPDATE models SET fallbacks = '[]', quality = '{}'"))
        connection.execute(text("UPDATE registry_state SET revision = revision + 1"))
    await source.refresh()
    assert source.problem is None
    assert source.current.version == store.revision()


async def test_refresh_refuses_what_is_no_json(store: RegistryStore, path: Path) -> None:
    """SQLite lets other hands write anything; PostgreSQL would not take it."""
    store.apply(parse_manifest(MANIFEST))
    source = CatalogSource(store)
    await source.refresh()
    good = source.current
    with store.database.writing() as connection:
        connection.execute(text("UPDATE models SET fallbacks = 'rubbish'"))
        connection.execute(text("UPDATE registry_state SET revision = revision + 1"))
    await source.refresh()
    assert source.current is good
    assert source.problem is not None
    assert "cannot be read" in source.problem


async def test_run_looks_less_often_at_a_registry_that_does_not_answer(store: RegistryStore, path: Path) -> None:
    """Pauses grow to two seconds, so that a server that comes back is not met by all routers at once; then they end."""
    paused: asyncio.Queue[float] = asyncio.Queue()
    go_on: asyncio.Queue[None] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        await paused.put(seconds)
        await go_on.get()

    task = asyncio.create_task(CatalogSource(store, interval=0.5, sleep=sleep).run())
    pauses = [await paused.get()]
    shutil.move(path, path.with_name("aside"))
    for _ in range(4):
        await go_on.put(None)
        pauses.append(await paused.get())
    shutil.move(path.with_name("aside"), path)
    await go_on.put(None)
    pauses.append(await paused.get())
    assert pauses == [0.5, 1.0, 2.0, 2.0, 2.0, 0.5]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_run_polls_until_cancelled(store: RegistryStore) -> None:
    """The background task looks again after each pause, and ends when told to."""
    paused: asyncio.Queue[float] = asyncio.Queue()
    go_on: asyncio.Queue[None] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        await paused.put(seconds)
        await go_on.get()

    source = CatalogSource(store, interval=0.2, sleep=sleep)
    task = asyncio.create_task(source.run())
    assert await paused.get() == 0.2
    store.create_key("a")
    await go_on.put(None)
    await paused.get()
    assert source.current.has_keys
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_refresh_from_many_tasks_at_once(store: RegistryStore) -> None:
    """Requests that all want the newest state share one look at a time."""
    source = CatalogSource(store)
    store.create_key("a")
    await asyncio.gather(*(source.refresh() for _ in range(20)))
    assert source.current.has_keys


class CountingStore(RegistryStore):
    """A registry that counts the looks at it, on a file system that may hide changes.

    Args:
        store: The registry that it is, opened.
        hides: Whether the file system tells of no change.
    """

    def __init__(self, store: RegistryStore, *, hides: bool = False) -> None:
        super().__init__(store.database)
        self.hides = hides
        self.looks = 0

    def stamp(self) -> Stamp:
        """Count a look."""
        self.looks += 1
        return super().stamp()

    def trace(self) -> Trace | None:
        """Return the true trace, or always the same."""
        return (None,) if self.hides else super().trace()


class Rounds:
    """Pauses that the test lets end one by one."""

    def __init__(self) -> None:
        self._paused: asyncio.Queue[None] = asyncio.Queue()
        self._go_on: asyncio.Queue[None] = asyncio.Queue()

    async def sleep(self, _seconds: float) -> None:
        """Wait for the test."""
        await self._paused.put(None)
        await self._go_on.get()

    async def first(self) -> None:
        """Wait until the first round is over."""
        await self._paused.get()

    async def pass_(self, count: int) -> None:
        """Let so many more rounds pass."""
        for _ in range(count):
            await self._go_on.put(None)
            await self._paused.get()


def age(path: Path) -> None:
    """Make the registry's files an hour old."""
    for file in (path, path.with_name(path.name + "-wal")):
        an_hour_ago = file.stat().st_mtime - 3600
        os.utime(file, (an_hour_ago, an_hour_ago))


@asynccontextmanager
async def running(store: RegistryStore) -> AsyncIterator[tuple[CatalogSource, Rounds]]:
    """A source that has looked once, and what lets it go on."""
    rounds = Rounds()
    source = CatalogSource(store, sleep=rounds.sleep)
    task = asyncio.create_task(source.run())
    await rounds.first()
    try:
        yield source, rounds
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_run_spares_looks_at_an_untouched_file(store: RegistryStore, path: Path) -> None:
    """Where nothing happens one look in ten takes a thread; a change by another process is seen in the next round."""
    counting = CountingStore(store)
    await CatalogSource(counting).refresh()
    age(path)
    counting.looks = 0
    async with running(counting) as (source, rounds):
        await rounds.pass_(19)
        assert counting.looks == 2
        other = open_store(path)
        made = other.create_key("a")
        await rounds.pass_(1)
        assert source.current.caller(made.key) is not None
        age(path)
        await rounds.pass_(1)
        other.create_key("b")
        await rounds.pass_(1)
        assert source.current.version == store.revision()
        other.close()
    counting.close()


async def test_run_looks_at_a_file_that_changed_just_now(store: RegistryStore) -> None:
    """While a second change might carry the same time as the first, every look is a whole one."""
    store.create_key("a")
    assert store.trace() is None


async def test_run_sees_a_change_that_the_file_system_hides(store: RegistryStore) -> None:
    """Ten rounds at most keep a change from being seen, whatever the file's times say."""
    counting = CountingStore(store, hides=True)
    async with running(counting) as (source, rounds):
        await rounds.pass_(1)
        store.create_key("a")
        await rounds.pass_(9)
        assert source.current.has_keys
    counting.close()


async def test_run_looks_for_a_file_that_is_away(store: RegistryStore, path: Path) -> None:
    """A problem is looked at in every round, so that its end is seen at once."""
    counting = CountingStore(store)
    async with running(counting) as (source, rounds):
        shutil.move(path, path.with_name("aside"))
        await rounds.pass_(3)
        assert source.problem is not None
        shutil.move(path.with_name("aside"), path)
        await rounds.pass_(1)
        assert source.problem is None
    counting.close()
