"""The catalog in force: CatalogSource keeps it in step with the registry, off the request path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from router.registry.build import build_catalog
from router.registry.revision import Stamp, Watch
from router.registry.snapshot import BUILT_IN_POLICIES, EMPTY_CATALOG, Catalog, InvalidCatalog
from router.registry.store import RegistryStore, StoreError

__all__ = ["BUILT_IN_POLICIES", "Catalog", "CatalogSource", "InvalidCatalog", "build_catalog"]

_LONGEST_PAUSE = 2.0
"""Seconds between two looks at a registry that does not answer: every router looks, and its server is to recover."""
_log = logging.getLogger(__name__)


class CatalogSource:
    """Holds the catalog that requests read, and swaps it when the registry has changed.

    A registry that cannot be read, or whose new state is invalid, leaves the last good catalog
    in force; `problem` then says why.

    Args:
        store: The registry.
        interval: Seconds between two looks at it.
        sleep: How the time between two looks passes.
    """

    def __init__(
        self,
        store: RegistryStore,
        *,
        interval: float = 0.2,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._interval = interval
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        """The look that waits for its turn."""
        self._seen: Stamp | None = None
        self._known: str | None = None
        self._watch = Watch(store.trace)
        self.current: Catalog = EMPTY_CATALOG
        self.loaded = False
        """Whether `current` has ever been read from the registry."""
        self.problem: str | None = None
        """Why `current` may be out of date, in a sentence; None while all is well."""

    async def refresh(self, patience: float | None = None) -> bool:
        """Look at the registry now; never raises.

        Whoever comes before a look has begun shares it: one that hangs holds up two looks, and not as many as there
        are requests.

        Args:
            patience: Seconds to wait for the look, which goes on; None: until it is over.

        Returns:
            Whether it is over and all is well.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(self._look())
        looking = self._next
        await asyncio.wait({looking}, timeout=patience)
        return looking.done() and self.problem is None

    async def _look(self) -> None:
        async with self._turn:
            self._next = None
            problem = await asyncio.to_thread(self._read)
            if problem is not None and problem != self.problem:
                _log.warning("the registry's last good state stays in force", extra={"fields": {"reason": problem}})
            elif problem is None and self.problem is not None:
                _log.info("the registry is read again", extra={"fields": {"version": self.current.version}})
            self.problem = problem

    async def run(self) -> None:
        """Look at the registry again and again until cancelled, less often while it does not answer.

        A look that takes a thread is spared while the registry's file is untouched.
        """
        pause = self._interval
        while True:
            if self._watch.touched() or self.problem is not None:
                await self.refresh()
            pause = self._interval if self.problem is None else min(2 * pause, max(_LONGEST_PAUSE, self._interval))
            await self._sleep(pause)

    def _read(self) -> str | None:
        """Swap the catalog where the registry has changed; return what is wrong, if anything."""
        try:
            # A change between the two reads is seen again at the next look.
            stamp = self._store.stamp()
            if stamp == self._seen:
                return self._known
            rows = self._store.load()
        except StoreError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever a damaged file makes of a row, requests go on
            return f"The registry cannot be read: {error!r}."
        try:
            catalog = build_catalog(rows)
        except InvalidCatalog as error:
            self._known = str(error)
        except Exception as error:  # noqa: BLE001 - as above
            self._known = f"The registry holds rows that cannot be understood: {error!r}."
        else:
            self._known = None
            self.current = catalog
            self.loaded = True
        self._seen = stamp
        return self._known
