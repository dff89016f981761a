"""Discovery against real servers on free ports: fill, follow, keep through failure, never show a key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from router.registry.asking import Asker
from router.registry.build import build_catalog
from router.registry.catalog import Catalog
from router.registry.discovery import Discovery, Source, sources
from router.registry.manifest import parse_manifest
from router.registry.store import RegistryStore
from tests.support.process import free_port
from tests.support.upstream import ScriptedReply, ScriptedUpstream, SeenRequest, scripted_upstream

AGENT = {"data": [{"id": "smol", "context_length": 8192, "capabilities": ["chat", "messages"]}]}


@dataclass
class Answers:
    """What a server says, which a test may change."""

    body: Any
    status: int = 200
    seen: list[SeenRequest] = field(default_factory=list)

    async def __call__(self, request: SeenRequest, reply: ScriptedReply) -> None:
        """Answer one request."""
        self.seen.append(request)
        if isinstance(self.body, bytes):
            await reply.body(self.body, self.status)
        else:
            await reply.json(self.body, self.status)


@asynccontextmanager
async def server(answers: Answers) -> AsyncIterator[str]:
    """Run a server on a free port and yield its address."""
    upstream: ScriptedUpstream
    async with scripted_upstream(answers) as upstream:
        yield upstream.url.removesuffix("/v1")


@asynccontextmanager
async def discovery(
    store: RegistryStore, named: list[Source], secrets: dict[str, str] | None = None, **options: Any
) -> AsyncIterator[Discovery]:
    """Yield a discovery that is not running."""
    yield Discovery(named, store, Asker(), (secrets or {}).get, **options)


def named(
    secrets: dict[str, str] | None = None, agent: str | None = None, llmd: str | None = None, models: str | None = None
) -> list[Source]:
    """Return the sources that such settings name."""
    return sources(local_agent_url=agent, llmd_endpoint=llmd, llmd_models=models, secrets=(secrets or {}).get)


def catalog_of(store: RegistryStore) -> Catalog:
    """Return the catalog of what is in the registry now."""
    return build_catalog(store.load())


def test_sources_of_the_settings() -> None:
    """Each setting enables its source; a provider needs its key alone, and may move."""
    assert named() == []
    assert named(agent="off") == []
    secrets = {"EXTERNAL_GROQ_KEY": "k", "EXTERNAL_OPENAI_KEY": "k", "EXTERNAL_OPENAI_BASE_URL": "http://proxy/v1/"}
    found = {source.backend.name: source for source in named(secrets, "http://mac:5000/", "http://gw/")}
    assert list(found) == ["local", "llmd", "openai", "groq"]
    assert found["local"].backend.base_url == "http://mac:5000"
    assert found["local"].listing == "http://mac:5000/v1/models"
    assert (found["llmd"].backend.base_url, found["llmd"].backend.tier) == ("http://gw/v1", "cluster")
    assert found["openai"].backend.base_url == "http://proxy/v1"
    assert found["groq"].listing == "https://api.groq.com/openai/v1/models"
    assert found["groq"].backend.api_key_env == "EXTERNAL_GROQ_KEY"


async def test_look_fills_the_registry(store: RegistryStore) -> None:
    """One look at each tier makes a catalog without any manifest."""
    openai = Answers({"data": [{"id": "gpt-4o-mini"}, {"id": "text-embedding-3-small"}]})
    secrets = {"EXTERNAL_OPENAI_KEY": "sk-test-1234567890"}
    async with server(Answers(AGENT)) as agent, server(Answers({"data": [{"id": "q", "max_model_len": 4096}]})) as gw:
        async with server(openai) as provider:
            secrets["EXTERNAL_OPENAI_BASE_URL"] = f"{provider}/v1"
            places = named(secrets, agent, gw)
            async with discovery(store, places, secrets) as looking:
                assert [await looking.look(place) for place in places] == [True, True, True]
    catalog = catalog_of(store)
    assert {name: backend.tier for name, backend in catalog.backends.items()} == {
        "local": "local",
        "llmd": "cluster",
        "openai": "external",
    }
    assert catalog.backends["local"].accepts_messages
    assert set(catalog.models) == {"smol", "q", "gpt-4o-mini", "text-embedding-3-small"}
    assert catalog.models["text-embedding-3-small"].capabilities == {"embeddings"}
    assert catalog.models["gpt-4o-mini"].deployments[0].price.input is not None
    assert catalog.models["q"].context_length == 4096
    assert [request.headers["authorization"] for request in openai.seen] == ["Bearer sk-test-1234567890"]


def test_sources_of_servers_of_ones_own() -> None:
    """An address is enough; where it is decides the tier; a key goes along where there is one."""
    secrets = {
        "EXTERNAL_OLLAMA_BASE_URL": "http://localhost:11434",
        "EXTERNAL_LMSTUDIO_BASE_URL": "http://[::1]:1234/v1/",
        "EXTERNAL_LLAMACPP_BASE_URL": "http://192.168.1.7:8080",
        "EXTERNAL_VLLM_BASE_URL": "http://gpu.example/serving/v1",
        "EXTERNAL_VLLM_KEY": "k",
    }
    found = {source.backend.name: source.backend for source in named(secrets)}
    assert {name: (backend.base_url, backend.tier, backend.api_key_env) for name, backend in found.items()} == {
        "ollama": ("http://localhost:11434/v1", "local", None),
        "lmstudio": ("http://[::1]:1234/v1", "local", None),
        "llamacpp": ("http://192.168.1.7:8080/v1", "cluster", None),
        "vllm": ("http://gpu.example/serving/v1", "cluster", "EXTERNAL_VLLM_KEY"),
    }
    assert named({"EXTERNAL_OLLAMA_KEY": "k"}) == []


def test_sources_say_which_endpoints_are_their_own() -> None:
    """A provider's own address has them; whatever stands in for it is not assumed to."""
    (own,) = named({"EXTERNAL_OPENAI_KEY": "k"})
    (other,) = named({"EXTERNAL_OPENAI_KEY": "k", "EXTERNAL_OPENAI_BASE_URL": "http://proxy/v1"})
    assert (own.backend.endpoints, other.backend.endpoints) == (("responses",), ())


async def test_look_takes_azures_deployments_from_the_settings(store: RegistryStore) -> None:
    """Its address and the names of its deployments are given; nobody is asked; the key has its own header."""
    secrets = {"EXTERNAL_AZURE_KEY": "k"}
    assert named(secrets) == []
    secrets["EXTERNAL_AZURE_BASE_URL"] = "https://r.openai.azure.com/openai/deployments/{model}?api-version=2024-10-21"
    (nameless,) = named(secrets)
    (place,) = named(secrets | {"EXTERNAL_AZURE_MODELS": "gpt-4o, my-embeddings,"})
    (newer,) = named(secrets | {"EXTERNAL_AZURE_BASE_URL": "https://r.openai.azure.com/openai/v1/"})
    assert (place.backend.endpoints, newer.backend.endpoints) == ((), ("responses",))
    async with discovery(store, [], secrets) as looking:
        assert not await looking.look(nameless)
        assert await looking.look(place)
    catalog = catalog_of(store)
    assert catalog.backends["azure"].key_header == "api-key"
    assert set(catalog.models) == {"gpt-4o", "my-embeddings"}
    assert catalog.models["gpt-4o"].deployments[0].price.input is not None
    assert catalog.models["my-embeddings"].capabilities == {"embeddings"}


async def test_look_takes_named_models_instead_of_a_list(store: RegistryStore) -> None:
    """For any provider; one without a list has its models in the table."""
    answers = Answers({}, 500)
    async with server(answers) as url:
        secrets = {"EXTERNAL_GOOGLE_KEY": "k", "EXTERNAL_GOOGLE_BASE_URL": f"{url}/v1beta"}
        places = named(secrets | {"EXTERNAL_GOOGLE_MODELS": "gemini-2.5-pro", "EXTERNAL_PERPLEXITY_KEY": "k"})
        async with discovery(store, places, secrets) as looking:
            assert [await looking.look(place) for place in places] == [True, True]
    assert answers.seen == []
    catalog = catalog_of(store)
    assert {"gemini-2.5-pro", "sonar", "sonar-pro"} <= set(catalog.models)
    assert catalog.models["sonar"].deployments[0].price.output is not None


async def test_look_reads_a_list_to_its_end(store: RegistryStore) -> None:
    """Google's and Anthropic's lists come in parts; a list that goes round in circles is cut off."""
    pages = {
        "/v1beta/models?pageSize=1000": {"models": [{"name": "models/a"}], "nextPageToken": "2"},
        "/v1beta/models?pageSize=1000&pageToken=2": {"models": [{"name": "models/b"}, {"name": "models/a"}]},
        "/v1/models?limit=1000": {"data": [{"id": "c"}], "has_more": True, "last_id": "c"},
        "/v1/models?limit=1000&after_id=c": {"data": [{"id": "d"}], "has_more": True, "last_id": "c"},
    }
    seen: list[SeenRequest] = []

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        seen.append(request)
        await reply.json(pages[request.path])

    async with scripted_upstream(script) as upstream:
        base = upstream.url.removesuffix("/v1")
        secrets = {
            "EXTERNAL_GOOGLE_KEY": "k",
            "EXTERNAL_GOOGLE_BASE_URL": f"{base}/v1beta",
            "EXTERNAL_ANTHROPIC_KEY": "k2",
            "EXTERNAL_ANTHROPIC_BASE_URL": f"{base}/v1",
        }
        places = named(secrets)
        async with discovery(store, places, secrets) as looking:
            assert [await looking.look(place) for place in places] == [True, True]
    assert set(catalog_of(store).models) == {"a", "b", "c", "d"}
    assert len(seen) == 50 + 2
    asked = {request.path.split("/")[1]: request.headers for request in seen}
    assert asked["v1beta"]["x-goog-api-key"] == "k"
    assert "authorization" not in asked["v1beta"]
    assert (asked["v1"]["x-api-key"], asked["v1"]["anthropic-version"]) == ("k2", "2023-06-01")
    assert "authorization" not in asked["v1"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": "x"}, 500),
        ({"error": "no pods available"}, 500),
        ({}, 200),
        (b"<html>", 200),
        ({"data": 3}, 200),
        ({}, 401),
    ],
)
async def test_look_keeps_what_it_knew_through_failure(
    store: RegistryStore, caplog: pytest.LogCaptureFixture, body: Any, status: int
) -> None:
    """A source that fails keeps its models; it is told once and without the key."""
    caplog.set_level(logging.INFO)
    answers = Answers({"data": [{"id": "gpt"}]})
    async with server(answers) as url:
        secrets = {"EXTERNAL_OPENAI_KEY": "sk-very-secret", "EXTERNAL_OPENAI_BASE_URL": f"{url}/v1"}
        (place,) = named(secrets)
        async with discovery(store, [place], secrets) as looking:
            for _ in range(2):
                assert await looking.look(place)
            revision = store.revision()
            answers.body, answers.status = body, status
            for _ in range(2):
                assert not await looking.look(place)
            assert store.revision() == revision
            assert list(catalog_of(store).models) == ["gpt"]
            answers.body, answers.status = {"data": [{"id": "gpt-2"}]}, 200
            assert await looking.look(place)
    assert list(catalog_of(store).models) == ["gpt-2"]
    told = [record.getMessage() for record in caplog.records if record.name == "router.registry.discovery"]
    assert len(told) == 3
    assert [("failed" in line) for line in told] == [False, True, False]
    assert "secret" not in caplog.text


async def test_look_at_a_server_that_is_away(store: RegistryStore) -> None:
    """Nobody on the port is a failure like any other."""
    (place,) = named(agent=f"http://127.0.0.1:{free_port()}")
    async with discovery(store, [place]) as looking:
        assert not await looking.look(place)
    assert catalog_of(store).backends == {}


class Pauses:
    """A clock in the test's hands: says how long a task wants to sleep, and wakes it."""

    def __init__(self) -> None:
        self.wanted: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        """Wait until the test says so."""
        awake = asyncio.Event()
        await self.wanted.put((seconds, awake))
        await awake.wait()

    async def next(self, wish: Callable[[float], bool]) -> tuple[float, asyncio.Event]:
        """Return the next pause of a wished length; others go on sleeping."""
        while True:
            seconds, awake = await self.wanted.get()
            if wish(seconds):
                return seconds, awake


async def test_run_retries_soon_and_refreshes_later(store: RegistryStore) -> None:
    """A source that is away is asked again soon; once it answers, at its own pace; a refused key only then."""
    pauses = Pauses()
    answers = Answers({}, 503)
    async with server(answers) as url:
        secrets = {"EXTERNAL_OPENAI_KEY": "k", "EXTERNAL_OPENAI_BASE_URL": f"{url}/v1"}
        async with discovery(store, named(secrets), secrets, retry=2.0, probe_every=7.0, sleep=pauses.sleep) as looking:
            task = asyncio.create_task(looking.run())
            seconds, awake = await pauses.next(lambda seconds: seconds != 7.0)
            assert seconds == 2.0
            answers.body, answers.status = {"data": [{"id": "gpt"}]}, 200
            awake.set()
            seconds, awake = await pauses.next(lambda seconds: seconds != 7.0)
            assert seconds == 60.0
            assert list(catalog_of(store).models) == ["gpt"]
            answers.status = 401
            awake.set()
            seconds, _ = await pauses.next(lambda seconds: seconds != 7.0)
            assert seconds == 60.0
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_run_spares_a_source_of_another_router(store: RegistryStore) -> None:
    """Where the registry is shared, a source that was looked at just now is another router's."""
    pauses = Pauses()
    async with server(Answers({"data": [{"id": "gpt"}]})) as url:
        secrets = {"EXTERNAL_OPENAI_KEY": "k", "EXTERNAL_OPENAI_BASE_URL": f"{url}/v1"}
        async with discovery(store, named(secrets), secrets) as theirs:
            await theirs.look(named(secrets)[0])
        async with discovery(store, named(), sleep=pauses.sleep, shared=True) as ours:
            task = asyncio.create_task(ours.run())
            await pauses.next(lambda seconds: seconds == 5.0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert list(catalog_of(store).backends) == ["openai"]


async def test_run_forgets_sources_that_are_no_longer_named(store: RegistryStore) -> None:
    """A provider whose key is gone is gone after the next start."""
    answers = Answers({"data": [{"id": "gpt"}]})
    pauses = Pauses()
    async with server(answers) as url:
        secrets = {"EXTERNAL_OPENAI_KEY": "k", "EXTERNAL_OPENAI_BASE_URL": f"{url}/v1"}
        async with discovery(store, named(secrets), secrets) as looking:
            await looking.look(named(secrets)[0])
        async with server(Answers(AGENT)) as agent, discovery(store, named(agent=agent), sleep=pauses.sleep) as looking:
            task = asyncio.create_task(looking.run())
            await pauses.next(lambda seconds: seconds == 5.0)
            await pauses.next(lambda seconds: seconds == 5.0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert list(catalog_of(store).backends) == ["local"]


async def test_probe_asks_declared_agents_for_messages(store: RegistryStore) -> None:
    """An agent of the manifest takes messages where its list says so, and no longer when that goes."""
    answers = Answers(AGENT)
    async with server(answers) as url, discovery(store, []) as looking:
        store.apply(
            parse_manifest(
                f'backends: [{{name: mac, dialect: local_agent, base_url: "{url}", tier: local}}]\n'
                "models: [{id: m, deployments: [{backend: mac}]}]"
            )
        )
        await looking.probe()
        assert catalog_of(store).backends["mac"].accepts_messages
        answers.body, answers.status = {}, 500
        await looking.probe()
        assert catalog_of(store).backends["mac"].accepts_messages
        answers.body, answers.status = {"detail": "Not Found"}, 404
        await looking.probe()
        assert not catalog_of(store).backends["mac"].accepts_messages
