"""AgentRoster: who has announced itself, who still beats, and who has gone silent."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable

from router.registry.revision import Watch
from router.registry.rows import Announcement, Beat
from router.registry.store import RegistryStore, StoreError

__all__ = ["AgentRoster"]

_MISSED = 3
_WRITE_EVERY = 1.5
_FORGET_AFTER_MS = 7 * 24 * 3600 * 1000
_log = logging.getLogger(__name__)


class AgentRoster:
    """Takes registrations and heartbeats; synchronous but for `run`, and safe between threads.

    Heartbeats stay in memory and reach the registry on every second one, so that other workers
    and the command line see them without a write each time.

    Args:
        store: The registry.
        interval: Seconds between two heartbeats of an agent; it is stale after three of them.
        clock: Milliseconds since the epoch.
        sleep: How the time between two sweeps passes.
    """

    def __init__(
        self,
        store: RegistryStore,
        *,
        interval: float = 5.0,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.interval = interval
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._beats: dict[str, Beat] = {}
        self._written: dict[str, int] = {}
        self._stale: frozenset[str] = frozenset()
        self._failing = False
        self._watch = Watch(store.trace)
        self._any = True
        # While no router ran, none could hear a beat: the silence counts from here.
        self._started = clock()

    def register(self, announcement: Announcement) -> str:
        """Take an agent in and return its backend's name.

        Raises:
            StoreError: The registry does not answer.
        """
        now = self._clock()
        backend = self._store.register_agent(announcement, now)
        with self._lock:
            self._beats[announcement.id] = Beat(announcement.id, now)
            self._written[announcement.id] = now
            self._stale -= {announcement.id}
        models = [model["id"] for model in announcement.models]
        _log.info(
            "agent registered", extra={"fields": {"agent": announcement.name, "backend": backend, "models": models}}
        )
        return backend

    def beat(self, agent: str, queued: int, running: int) -> bool:
        """Take a heartbeat; return False where no such agent is registered.

        Raises:
            StoreError: The agent is not known here and the registry does not answer.
        """
        beat = Beat(agent, self._clock(), queued, running)
        with self._lock:
            known = agent in self._beats
            due = beat.seen_at - self._written.get(agent, 0) >= self.interval * _WRITE_EVERY * 1000
            back = agent in self._stale
        if not known and all(row["id"] != agent for row in self._store.agents()):
            return False
        with self._lock:
            self._beats[agent] = beat
        if due or back or not known:
            try:
                self._store.write_beats([beat])
            except StoreError as error:
                self._complain(error)
            else:
                with self._lock:
                    self._written[agent] = beat.seen_at
                    self._stale -= {agent}
        return True

    def sweep(self) -> None:
        """Mark the agents that have missed three heartbeats; forget those gone for a week.

        Raises:
            StoreError: The registry does not answer.
        """
        rows = self._store.agents()
        now = self._clock()
        with self._lock:
            known = {row["id"] for row in rows}
            self._any = bool(known)
            self._beats = {agent: beat for agent, beat in self._beats.items() if agent in known}
            seen = {row["id"]: max(row["last_seen"], self._started, self._last(row["id"])) for row in rows}
            self._stale = frozenset(row["id"] for row in rows if row["stale"])
        silent = [row for row in rows if now - seen[row["id"]] > self.interval * _MISSED * 1000]
        fresh = [row for row in silent if not row["stale"]]
        if fresh:
            self._store.mark_stale([row["id"] for row in fresh])
            with self._lock:
                self._stale |= {row["id"] for row in fresh}
            _log.warning("agents have gone silent", extra={"fields": {"agents": [row["name"] for row in fresh]}})
        for row in silent:
            if now - row["last_seen"] > _FORGET_AFTER_MS:
                self._store.remove_agent(row["id"])

    def _last(self, agent: str) -> int:
        beat = self._beats.get(agent)
        return 0 if beat is None else beat.seen_at

    async def run(self) -> None:
        """Sweep again and again until cancelled; where nobody has announced itself, only once somebody may have."""
        while True:
            try:
                if self._watch.touched() or self._any or self._failing:
                    await asyncio.to_thread(self.sweep)
                    self._failing = False
            except StoreError as error:
                self._complain(error)
            await self._sleep(self.interval / 5)

    def _complain(self, error: StoreError) -> None:
        if not self._failing:
            _log.warning("heartbeats are not recorded", extra={"fields": {"reason": str(error)}})
        self._failing = True
