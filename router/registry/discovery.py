"""Discovery: asks agents, the cluster and the providers what they serve, and keeps the registry in step."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial

from router.interfaces import Secrets
from router.registry.asking import Asks, Refused
from router.registry.found import now_ms
from router.registry.listings import ListingKind, next_page, read_listing
from router.registry.providers import PROVIDERS, Provider
from router.registry.rows import FoundBackend, FoundModel, Look, LookState
from router.registry.store import RegistryStore, StoreError

__all__ = ["Discovery", "Source", "sources"]

_log = logging.getLogger(__name__)
_AGENT_EVERY = 5.0
_CLUSTER_EVERY = 15.0
_EVERY = 60.0
_RETRY = 2.0
_SPREAD = 0.2
"""Share of a cluster's pause that chance decides, so that the routers of one cluster do not ask it together."""
_PATIENCE = 8
"""Looks in a row after which a cluster's model is gone: each asks one worker, and adapters differ between workers."""
_FORGOTTEN_MS = 180_000
"""Milliseconds without a look by any router after which a source of a shared registry is nobody's."""
_REMIND = 60.0
"""Seconds after which a look is written down again although it found nothing new."""
_REFUSED = (401, 403)
_LLMD_KEY = "LLMD_API_KEY"
_EMPTY: LookState = "empty"
_FAILED: LookState = "failed"
_PAGES = 50
"""More than any list has; one that never ends is cut off."""


@dataclass(frozen=True, slots=True)
class Source:
    """A place that can be asked what it serves.

    Attributes:
        backend: The backend that it is.
        listing: The URL of its list of models; None: it has none, or `named` is to be taken instead.
        kind: How its list is read.
        every: Seconds between two looks at it.
        provider: Its row in the table of providers, where it has one.
        named: The models that the settings or the table name; a cluster has them besides those of its list.
    """

    backend: FoundBackend
    listing: str | None
    kind: ListingKind
    every: float = _EVERY
    provider: Provider | None = None
    named: tuple[str, ...] = ()


def sources(
    *,
    local_agent_url: str | None,
    llmd_endpoint: str | None,
    secrets: Secrets,
    llmd_models: str | None = None,
    llmd_every: float = _CLUSTER_EVERY,
) -> list[Source]:
    """Return the sources that the settings name.

    Args:
        local_agent_url: Where to look for a local agent; None or `off` looks for none.
        llmd_endpoint: The cluster's base URL, without `/v1`.
        secrets: Reads `LLMD_API_KEY`, `EXTERNAL_<NAME>_KEY`, `EXTERNAL_<NAME>_BASE_URL` and `EXTERNAL_<NAME>_MODELS`.
        llmd_models: Models that the cluster serves, with commas between them, whether it lists them now or not.
        llmd_every: Seconds between two looks at the cluster.
    """
    found: list[Source] = []
    if local_agent_url and local_agent_url != "off":
        url = local_agent_url.rstrip("/")
        found.append(
            Source(FoundBackend("local", "local_agent", url, "local"), f"{url}/v1/models", "agent", _AGENT_EVERY)
        )
    if llmd_endpoint:
        url = llmd_endpoint.rstrip("/").removesuffix("/v1") + "/v1"
        cluster = FoundBackend("llmd", "openai", url, "cluster", _LLMD_KEY if secrets(_LLMD_KEY) else None)
        found.append(_cluster(cluster, llmd_every, _names(llmd_models)))
    return found + [source for provider in PROVIDERS if (source := _provided(provider, secrets)) is not None]


def _cluster(backend: FoundBackend, every: float, named: tuple[str, ...] = ()) -> Source:
    return Source(backend, f"{backend.base_url}/models", "cluster", every, named=named)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))


def _provided(provider: Provider, secrets: Secrets) -> Source | None:
    """Return a provider as a source, or None where the settings do not enable it."""
    keyed = bool(secrets(provider.key_env))
    base_url = secrets(provider.base_url_env) or provider.base_url
    if base_url is None or not (keyed or provider.own):
        return None
    url = provider.address(base_url)
    # A server that stands in for the provider, and Azure's paths with the model in them, have no more than others.
    usual = url == provider.base_url or (provider.base_url is None and "{model}" not in url)
    backend = FoundBackend(
        provider.name,
        provider.dialect,
        url,
        provider.tier(url),
        provider.key_env if keyed else None,
        key_header=provider.key_header,
        endpoints=provider.endpoints if usual else (),
    )
    named = _names(secrets(provider.models_env)) or provider.models
    listing = None if named or provider.listing is None else url + provider.listing
    return Source(backend, listing, "provider", provider=provider, named=named)


class Discovery:
    """Fills the registry in the background; a source that fails keeps what it last served.

    Args:
        sources: Whom to ask.
        store: The registry.
        asker: Asks; its limits bound how long a source may take.
        secrets: The value of a named key.
        retry: Seconds before a source that failed is asked again.
        probe_every: Seconds between two looks at declared agents, for whether they take `messages`.
        cluster_every: Seconds between two looks at a declared backend that is asked what it serves.
        shared: Whether other routers have the same registry, and in a rollout sources that this one does not.
        sleep: How time between two looks passes.
        chance: Returns a number in [0, 1), another each time.
        clock: Seconds that pass.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        store: RegistryStore,
        asker: Asks,
        secrets: Secrets,
        *,
        retry: float = _RETRY,
        probe_every: float = _AGENT_EVERY,
        cluster_every: float = _CLUSTER_EVERY,
        shared: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = tuple(sources)
        self._store = store
        self._asker = asker
        self._secrets = secrets
        self._retry = retry
        self._probe_every = probe_every
        self._cluster_every = cluster_every
        self._shared = shared
        self._sleep = sleep
        self._chance = chance
        self._clock = clock
        self._said: dict[str, str] = {}
        self._noted: dict[str, tuple[LookState, str | None, float]] = {}
        """What was last written down of a source, and when."""

    async def run(self) -> None:
        """Ask every source again and again until cancelled; the first time at once and side by side."""
        tasks = [asyncio.create_task(self._keep(source)) for source in self._sources]
        tasks.append(asyncio.create_task(self._keep_declared()))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self, source: Source) -> bool:
        """Ask one source now and write down what it serves; return whether that worked."""
        return await self._look(source) is None

    async def _keep(self, source: Source) -> None:
        while True:
            await self._sleep(self._pause(source, await self._look(source)))

    def _pause(self, source: Source, failure: Exception | None) -> float:
        every = source.every
        if source.kind == "cluster":
            every *= 1 + _SPREAD * (self._chance() - 0.5)
        # A key that is refused is still refused in two seconds, and providers count such tries.
        refused = isinstance(failure, Refused) and failure.status in _REFUSED
        return every if failure is None or refused or _is_empty(source, failure) else min(self._retry, every)

    async def _look(self, source: Source) -> Exception | None:
        name = source.backend.name
        try:
            models = await self._models(source)
            talks = source.kind == "agent" and any("messages" in model.capabilities for model in models)
            backend = replace(source.backend, accepts_messages=True) if talks else source.backend
            await self._write(source, backend, models)
        except Exception as error:  # noqa: BLE001 - whatever a source answers, the others go on
            await self._failed(source, error)
            return error
        ids = sorted(model.id for model in models)
        self._say(name, f"serves {len(ids)} models: {', '.join(ids[:8])}{', …' if len(ids) > 8 else ''}", logging.INFO)
        await self._note(source, "ok")
        return None

    async def _write(self, source: Source, backend: FoundBackend, models: Sequence[FoundModel] | None) -> None:
        if source.kind == "cluster":
            keep = partial(self._store.replace_discovered, named=source.named, patience=_PATIENCE)
            await asyncio.to_thread(keep, backend, models)
        else:
            await asyncio.to_thread(self._store.replace_discovered, backend, models)

    async def _failed(self, source: Source, error: Exception) -> None:
        """Say that a look failed, and keep what is known; a cluster is known although it has never listed anything."""
        name = source.backend.name
        if _is_empty(source, error):
            state, detail, level = _EMPTY, "it has no workers yet", logging.INFO
        else:
            state, detail, level = _FAILED, _reason(error), logging.WARNING
        self._say(name, f"failed: {detail}" if state == _FAILED else f"waits: {detail}", level)
        await self._note(source, state, detail)
        if source.kind == "cluster":
            try:
                await self._write(source, source.backend, None)
            except StoreError as problem:
                self._say(name, f"failed: {problem}", logging.WARNING)

    async def _note(self, source: Source, state: LookState, detail: str | None = None) -> None:
        """Write down what became of a look, where that is news or was written long ago."""
        backend, now = source.backend, self._clock()
        known = self._noted.get(backend.name)
        if known is not None and known[:2] == (state, detail) and now - known[2] < _REMIND:
            return
        at = now_ms()
        look = Look(backend.name, backend.base_url, state, detail, at, at if state == "ok" else None)
        try:
            await asyncio.to_thread(self._store.note_look, look)
        except StoreError as error:
            _log.debug("the look at %s is not written down: %s", backend.name, error)
        else:
            self._noted[backend.name] = (state, detail, now)

    async def _models(self, source: Source) -> tuple[FoundModel, ...]:
        provider = source.provider
        if source.listing is not None:
            return await self._ask(source.listing, self._headers(source), source.kind, provider)
        if not source.named and provider is not None:
            raise ValueError(f"it has no list of models; name them in {provider.models_env}")
        listed = {"data": [{"id": name} for name in source.named]}
        return await asyncio.to_thread(read_listing, listed, source.kind, datetime.now(timezone.utc), provider)

    async def _ask(
        self, url: str, headers: Mapping[str, str], kind: ListingKind, provider: Provider | None = None
    ) -> tuple[FoundModel, ...]:
        found: dict[str, FoundModel] = {}
        page = url
        for _ in range(_PAGES):
            body = await self._asker.get(page, headers)
            # In a thread: a provider's list is long, and the first look at prices loads their library.
            models, following = await asyncio.to_thread(_read, body, kind, provider)
            for model in models:
                found.setdefault(model.id, model)
            if following is None:
                break
            page = f"{url}{'&' if '?' in url else '?'}{following}"
        return tuple(found.values())

    def _headers(self, source: Source) -> dict[str, str]:
        headers = {} if source.provider is None else dict(source.provider.headers)
        key = None if source.backend.api_key_env is None else self._secrets(source.backend.api_key_env)
        if key is not None:
            own = source.backend.key_header
            headers[own or "authorization"] = key if own is not None else f"Bearer {key}"
        return headers

    def _say(self, source: str, what: str, level: int) -> None:
        """Log what is news about a source, and only then."""
        if self._said.get(source) != what:
            _log.log(level, "source %s %s", source, what)
        self._said[source] = what

    # --- declared backends ----------------------------------------------------------------------

    async def _keep_declared(self) -> None:
        asked: dict[Source, asyncio.Task[None]] = {}
        try:
            while True:
                await self._ask_declared(asked)
                await self.probe()
                await self._sleep(self._probe_every)
        finally:
            for task in asked.values():
                task.cancel()
            await asyncio.gather(*asked.values(), return_exceptions=True)

    async def _ask_declared(self, asked: dict[Source, asyncio.Task[None]]) -> None:
        """Ask the declared backends that want it, and forget what was found at sources that nobody names any more.

        Args:
            asked: Whom to ask, and by which task, which is brought up to date.
        """
        try:
            found = await asyncio.to_thread(self._store.declared_sources)
            declared = {_cluster(backend, self._cluster_every) for backend in found}
            for source in asked.keys() - declared:
                asked.pop(source).cancel()
            named = {source.backend.name for source in (*self._sources, *declared)}
            since = now_ms() - _FORGOTTEN_MS if self._shared else None
            for name in await asyncio.to_thread(self._store.forget_discovered, named, since):
                _log.info("source %s is no longer named", name)
        except StoreError as error:
            self._say("registry", f"failed: {error}", logging.WARNING)
            return
        for source in declared - asked.keys():
            asked[source] = asyncio.create_task(self._keep(source))

    async def probe(self) -> None:
        """Ask every declared local agent whether it takes `messages`."""
        try:
            declared = await asyncio.to_thread(self._store.declared_agents)
            for name, url, key_env in declared:
                key = None if key_env is None else self._secrets(key_env)
                accepts = await self._takes_messages(url, key)
                if accepts is not None:
                    await asyncio.to_thread(self._store.set_accepts_messages, name, "manifest", accepts)
        except StoreError as error:
            self._say("registry", f"failed: {error}", logging.WARNING)

    async def _takes_messages(self, url: str, key: str | None) -> bool | None:
        """Return whether an agent takes `messages`; None where it does not answer."""
        try:
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            models = await self._ask(f"{url}/v1/models", headers, "agent")
        except Refused as error:
            return False if error.status in (404, 405) else None
        except ValueError:
            return False
        except Exception:  # noqa: BLE001 - an agent that is away is asked again
            return None
        return any("messages" in model.capabilities for model in models)


def _read(body: bytes, kind: ListingKind, provider: Provider | None) -> tuple[tuple[FoundModel, ...], str | None]:
    payload = json.loads(body)
    return read_listing(payload, kind, datetime.now(timezone.utc), provider), next_page(payload)


def _is_empty(source: Source, error: Exception) -> bool:
    """Return whether a cluster says that it has no workers: it answers, and has scaled to zero or not started yet."""
    if source.kind != "cluster" or not isinstance(error, Refused):
        return False
    dropped = error.headers.get("x-llm-d-request-dropped-reason", "")
    return (
        (error.status == 503 and (dropped == "rejected-no-endpoints" or error.body.startswith(b"no healthy upstream")))
        # What llm-d's picker answers to a request without a body.
        or (error.status == 500 and b"no pods available" in error.body)
    )


def _reason(error: Exception) -> str:
    """Return why asking failed, in words that never hold a key."""
    if isinstance(error, asyncio.TimeoutError):
        return "it does not answer in time"
    if isinstance(error, Refused):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
