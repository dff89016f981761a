"""Discovery: asks agents, the cluster and the providers what they serve, and keeps the registry in step."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from router.interfaces import Secrets
from router.registry.asking import Asks, Refused
from router.registry.listings import ListingKind, next_page, read_listing
from router.registry.providers import PROVIDERS, Provider
from router.registry.rows import FoundBackend, FoundModel
from router.registry.store import RegistryStore, StoreError

__all__ = ["Discovery", "Source", "sources"]

_log = logging.getLogger(__name__)
_AGENT_EVERY = 5.0
_EVERY = 60.0
_RETRY = 2.0
_REFUSED = (401, 403)
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
        named: The models that the settings or the table name.
    """

    backend: FoundBackend
    listing: str | None
    kind: ListingKind
    every: float = _EVERY
    provider: Provider | None = None
    named: tuple[str, ...] = ()


def sources(*, local_agent_url: str | None, llmd_endpoint: str | None, secrets: Secrets) -> list[Source]:
    """Return the sources that the settings name.

    Args:
        local_agent_url: Where to look for a local agent; None or `off` looks for none.
        llmd_endpoint: The cluster's base URL, without `/v1`.
        secrets: Reads `EXTERNAL_<NAME>_KEY`, `EXTERNAL_<NAME>_BASE_URL` and `EXTERNAL_<NAME>_MODELS`.
    """
    found: list[Source] = []
    if local_agent_url and local_agent_url != "off":
        url = local_agent_url.rstrip("/")
        found.append(
            Source(FoundBackend("local", "local_agent", url, "local"), f"{url}/v1/models", "agent", _AGENT_EVERY)
        )
    if llmd_endpoint:
        url = llmd_endpoint.rstrip("/").removesuffix("/v1") + "/v1"
        found.append(Source(FoundBackend("llmd", "openai", url, "cluster"), f"{url}/models", "cluster"))
    return found + [source for provider in PROVIDERS if (source := _provided(provider, secrets)) is not None]


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
    asked = (name.strip() for name in (secrets(provider.models_env) or "").split(","))
    named = tuple(name for name in asked if name) or provider.models
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
        sleep: How time between two looks passes.
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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sources = tuple(sources)
        self._store = store
        self._asker = asker
        self._secrets = secrets
        self._retry = retry
        self._probe_every = probe_every
        self._sleep = sleep
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """Ask every source again and again until cancelled; the first time at once and side by side."""
        tasks = [asyncio.create_task(self._keep(source)) for source in self._sources]
        tasks += [asyncio.create_task(self._forget()), asyncio.create_task(self._keep_probing())]
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
            failure = await self._look(source)
            refused = isinstance(failure, Refused) and failure.status in _REFUSED
            # A key that is refused is still refused in two seconds, and providers count such tries.
            await self._sleep(source.every if failure is None or refused else min(self._retry, source.every))

    async def _look(self, source: Source) -> Exception | None:
        name = source.backend.name
        try:
            models = await self._models(source)
            talks = source.kind == "agent" and any("messages" in model.capabilities for model in models)
            backend = replace(source.backend, accepts_messages=True) if talks else source.backend
            await asyncio.to_thread(self._store.replace_discovered, backend, models)
        except Exception as error:  # noqa: BLE001 - whatever a source answers, the others go on
            self._say(name, f"failed: {_reason(error)}", logging.WARNING)
            return error
        ids = sorted(model.id for model in models)
        self._say(name, f"serves {len(ids)} models: {', '.join(ids[:8])}{', …' if len(ids) > 8 else ''}", logging.INFO)
        return None

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

    async def _forget(self) -> None:
        """Remove what earlier runs found at sources that are no longer named."""
        keep = {source.backend.name for source in self._sources}
        while True:
            try:
                gone = await asyncio.to_thread(self._store.forget_discovered, keep)
            except StoreError as error:
                self._say("registry", f"failed: {error}", logging.WARNING)
                await self._sleep(self._retry)
                continue
            for name in gone:
                _log.info("source %s is no longer named", name)
            return

    # --- declared agents ------------------------------------------------------------------------

    async def _keep_probing(self) -> None:
        while True:
            await self.probe()
            await self._sleep(self._probe_every)

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


def _reason(error: Exception) -> str:
    """Return why asking failed, in words that never hold a key."""
    if isinstance(error, asyncio.TimeoutError):
        return "it does not answer in time"
    if isinstance(error, Refused):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
