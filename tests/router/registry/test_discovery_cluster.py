"""Discovery of a cluster, whose list is that of one random worker: adapters, names, waiting, keys."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from router.registry.asking import Asker
from router.registry.asking_through import HttpxAsker
from router.registry.discovery import Discovery, Source
from router.registry.manifest import parse_manifest
from router.registry.rows import Look
from router.registry.store import RegistryStore
from router.registry.views import backends_view
from tests.router.registry.test_discovery import Answers, Pauses, catalog_of, discovery, named, server
from tests.support.cluster_recordings import replays
from tests.support.process import free_port
from tests.support.upstream import ScriptedReply, SeenRequest, scripted_upstream

PATIENCE = 8


def card(id_: str, length: int | None = None, parent: str | None = None) -> dict[str, Any]:
    """Return an entry as vLLM writes it; an adapter's length is null."""
    root = f"/adapters/{id_}" if parent else f"org/{id_}"
    return {
        "id": id_,
        "object": "model",
        "created": 1,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": length,
        "permission": [],
    }


def listing(*cards: dict[str, Any]) -> dict[str, Any]:
    """Return a list of models."""
    return {"object": "list", "data": list(cards)}


def cluster(url: str, models: str | None = None, **secrets: str) -> Source:
    """Return the cluster at a URL as the settings name it."""
    (source,) = named(secrets, llmd=url, models=models)
    return source


def no_secret(_name: str) -> None:
    """Return the value of a variable: none is set."""


def lengths(store: RegistryStore) -> dict[str, int | None]:
    """Return the context of each model in force."""
    return {name: model.context_length for name, model in catalog_of(store).models.items()}


async def test_look_follows_the_context_that_workers_are_started_with(store: RegistryStore) -> None:
    """A new `max_model_len` counts from the next look on; the same one is no change."""
    answers = Answers(listing(card("q", 32640)))
    async with server(answers) as url, discovery(store, []) as looking:
        assert await looking.look(cluster(url))
        assert lengths(store) == {"q": 32640}
        revision = store.revision()
        assert await looking.look(cluster(url))
        assert store.revision() == revision
        answers.body = listing(card("q", 8192))
        assert await looking.look(cluster(url))
    assert lengths(store) == {"q": 8192}


async def test_look_makes_adapters_models_of_their_own(store: RegistryStore) -> None:
    """An adapter has its parent's context and what is declared of the parent, and never tells its path."""
    store.apply(parse_manifest("models: [{id: q, capabilities: [chat, tools], quality: {overall: 0.5}}]"))
    answers = Answers(listing(card("q", 32640), card("q-sql", None, "q"), card("lost", None, "nobody")))
    async with server(answers) as url, discovery(store, []) as looking:
        assert await looking.look(cluster(url))
    catalog = catalog_of(store)
    adapter = catalog.models["q-sql"]
    assert (adapter.parent, adapter.context_length, set(adapter.capabilities)) == ("q", 32640, {"chat", "tools"})
    assert [(place.id, place.upstream_model) for place in adapter.deployments] == [("q-sql@llmd", "q-sql")]
    assert (catalog.models["q"].parent, catalog.models["q"].context_length) == (None, 32640)
    assert (catalog.models["lost"].parent, catalog.models["lost"].context_length) == ("nobody", None)
    assert "/adapters" not in str(store.load().models)


async def test_look_keeps_what_only_some_workers_have(store: RegistryStore) -> None:
    """Two workers with different adapters are asked in turn: all stay, none flickers, and the catalog is left alone."""
    both = (listing(card("q", 4096), card("a", None, "q")), listing(card("q", 4096), card("b", None, "q")))
    answers = Answers(both[0])
    async with server(answers) as url, discovery(store, []) as looking:
        for turn in range(2):
            answers.body = both[turn]
            assert await looking.look(cluster(url))
        assert lengths(store) == {"q": 4096, "a": 4096, "b": 4096}
        revision = store.revision()
        for turn in range(2 * PATIENCE):
            answers.body = both[turn % 2]
            assert await looking.look(cluster(url))
    assert store.revision() == revision
    assert set(lengths(store)) == {"q", "a", "b"}


async def test_look_drops_what_no_worker_has_for_long(store: RegistryStore) -> None:
    """A model is gone after several looks in a row without it; failures are no looks, whichever router makes them."""
    answers = Answers(listing(card("q", 4096), card("a", None, "q")))
    async with server(answers) as url:
        async with discovery(store, []) as looking, discovery(store, []) as replica:
            assert await looking.look(cluster(url))
            for turn in range(PATIENCE - 1):
                answers.body, answers.status = listing(card("q", 4096)), 200
                assert await (replica if turn % 2 else looking).look(cluster(url))
                answers.status = 503
                assert not await looking.look(cluster(url))
            assert set(lengths(store)) == {"q", "a"}
            answers.status = 200
            assert await looking.look(cluster(url))
    assert set(lengths(store)) == {"q"}


async def test_look_finds_again_what_it_missed(store: RegistryStore) -> None:
    """One sight of an adapter starts the count anew."""
    whole, less = listing(card("q"), card("a", None, "q")), listing(card("q"))
    answers = Answers(whole)
    async with server(answers) as url, discovery(store, []) as looking:
        for body in (whole, *[less] * (PATIENCE - 1), whole, *[less] * (PATIENCE - 1)):
            answers.body = body
            assert await looking.look(cluster(url))
    assert set(lengths(store)) == {"q", "a"}


@pytest.mark.parametrize(
    ("recorded", "state"),
    [
        ("entrance_no_workers", "empty"),
        ("picker_no_endpoints", "empty"),
        ("entrance_refused", "failed"),
        ("entrance_picker_away", "failed"),
    ],
)
async def test_look_understands_what_a_real_cluster_said(store: RegistryStore, recorded: str, state: str) -> None:
    """A list of vLLM with an adapter; Envoy and the picker without workers; an entrance that is broken."""
    async with scripted_upstream(replays("models")) as upstream, discovery(store, []) as looking:
        assert await looking.look(cluster(upstream.url))
        models = catalog_of(store).models
        assert {name: (model.context_length, model.parent) for name, model in models.items()} == {
            "recital": (4096, None),
            "recital-lora": (4096, "recital"),
        }
        upstream.script = replays(recorded)
        assert not await looking.look(cluster(upstream.url))
    assert [look.state for look in store.looks()] == [state]
    assert set(lengths(store)) == {"recital", "recital-lora"}


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (503, b"inference error: ...", {"x-llm-d-request-dropped-reason": "rejected-no-endpoints"}),
        (503, b"no healthy upstream", {"content-type": "text/plain"}),
        (500, b"inference error: Internal - no pods available in datastore", {}),
    ],
)
@pytest.mark.parametrize("asker", [Asker, HttpxAsker])
async def test_look_at_a_cluster_without_workers(
    store: RegistryStore,
    caplog: pytest.LogCaptureFixture,
    status: int,
    body: bytes,
    headers: dict[str, str],
    asker: type[Asker | HttpxAsker],
) -> None:
    """It waits for workers, is told as that, and keeps its models, which a request may wake."""
    caplog.set_level(logging.INFO)

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        if empty:
            await reply.body(body, status, headers)
        else:
            await reply.json(listing(card("q", 4096)))

    async with scripted_upstream(script) as upstream:
        source = cluster(upstream.url)
        looking = Discovery([source], store, asker(), no_secret)
        empty = True
        assert not await looking.look(source)
        assert list(catalog_of(store).backends) == ["llmd"]
        assert [look.state for look in store.looks()] == ["empty"]
        empty = False
        assert await looking.look(source)
        (look,) = store.looks()
        assert (look.state, look.detail, look.listed_at) == ("ok", None, look.looked_at)
        empty = True
        assert not await looking.look(source)
    assert lengths(store) == {"q": 4096}
    (seen,) = store.looks()
    assert (seen.state, seen.detail, seen.listed_at) == ("empty", "it has no workers yet", look.listed_at)
    (shown,) = backends_view(catalog_of(store), store.looks())
    assert (shown["listing"]["state"], shown["models"]) == ("empty", ["q"])
    told = [record for record in caplog.records if record.name == "router.registry.discovery"]
    assert [record.levelno for record in told] == [logging.INFO] * 3


async def test_look_offers_named_models_before_any_was_listed(store: RegistryStore) -> None:
    """`LLMD_MODELS` name what a cluster without workers cannot; facts come with its list and stay through silence."""
    answers = Answers(b"no healthy upstream", 503)
    async with server(answers) as url, discovery(store, []) as looking:
        source = cluster(url, "q, pool-2,")
        assert not await looking.look(source)
        assert lengths(store) == {"q": None, "pool-2": None}
        answers.body, answers.status = listing(card("q", 4096), card("a", None, "q")), 200
        for _ in range(2 * PATIENCE):
            assert await looking.look(source)
        assert lengths(store) == {"q": 4096, "a": 4096, "pool-2": None}
        answers.body, answers.status = b"no healthy upstream", 503
        assert not await looking.look(source)
        assert lengths(store) == {"q": 4096, "a": 4096, "pool-2": None}
    assert not await looking.look(cluster(f"http://127.0.0.1:{free_port()}", "other"))
    assert lengths(store) == {"other": None}


async def test_look_sends_the_clusters_key_and_shows_it_nowhere(
    store: RegistryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """`LLMD_API_KEY` goes along as a bearer token; the registry holds its name; a refusal is told without it."""
    caplog.set_level(logging.DEBUG)
    answers = Answers(listing(card("q")))
    secrets = {"LLMD_API_KEY": "sk-cluster-secret"}
    async with server(answers) as url:
        source = cluster(url, **secrets)
        async with discovery(store, [source], secrets) as looking:
            assert await looking.look(source)
            answers.body, answers.status = {"error": "sk-cluster-secret is wrong"}, 401
            assert not await looking.look(source)
    assert [request.headers["authorization"] for request in answers.seen] == ["Bearer sk-cluster-secret"] * 2
    assert catalog_of(store).backends["llmd"].api_key_env == "LLMD_API_KEY"
    (look,) = store.looks()
    assert (look.state, look.detail) == ("failed", "127.0.0.1 answered 401")
    assert "secret" not in caplog.text + str(store.load()) + str(store.looks())


async def test_run_asks_a_cluster_often_and_not_in_step(store: RegistryStore) -> None:
    """Every 15 s or so while it answers, even that nobody is there; soon where it does not; routers spread out."""
    pauses = Pauses()
    answers = Answers(listing(card("q")))
    chances = iter([0.0, 0.5, 0.999, 0.5])
    async with server(answers) as url:
        looking = Discovery(
            [cluster(url)], store, Asker(), no_secret, probe_every=7.0, sleep=pauses.sleep, chance=lambda: next(chances)
        )
        task = asyncio.create_task(looking.run())
        for seconds, (body, status) in (
            (13.5, (listing(card("q")), 200)),
            (15.0, (b"no healthy upstream", 503)),
            (16.497, ({}, 500)),
            (2.0, ({}, 500)),
        ):
            slept, awake = await pauses.next(lambda seconds: seconds != 7.0)
            assert slept == pytest.approx(seconds)
            answers.body, answers.status = body, status
            awake.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


DECLARED = """\
backends: [{{name: east, dialect: openai, base_url: "{url}/v1", tier: cluster, api_key_env: EAST_KEY{more}}}]
models: [{{id: chat-model, deployments: [{{backend: east, upstream_model: q, price: {{input: 1, output: 2}}}}]}}]
"""


async def test_run_asks_declared_clusters_that_want_it(store: RegistryStore) -> None:
    """Their models and adapters come by themselves, on the declared backend; without `discover` they go again."""
    pauses = Pauses()
    answers = Answers(listing(card("q", 4096), card("q-sql", None, "q")))
    async with server(answers) as url:
        store.apply(parse_manifest(DECLARED.format(url=url, more=", discover: true")))
        looking = Discovery(
            [], store, Asker(), {"EAST_KEY": "k"}.get, probe_every=7.0, sleep=pauses.sleep, chance=lambda: 0.5
        )
        task = asyncio.create_task(looking.run())
        asleep = dict([await pauses.wanted.get(), await pauses.wanted.get()])
        assert set(asleep) == {7.0, 15.0}
        catalog = catalog_of(store)
        assert list(catalog.backends) == ["east"]
        assert [place.id for model in catalog.models.values() for place in model.deployments] == [
            "chat-model@east",
            "q@east",
            "q-sql@east",
        ]
        assert {model.context_length for model in catalog.models.values()} == {4096}
        assert answers.seen[0].headers["authorization"] == "Bearer k"
        (shown,) = backends_view(catalog, store.looks())
        assert shown["listing"]["state"] == "ok"
        store.apply(parse_manifest(DECLARED.format(url=url, more="")))
        assert list(catalog_of(store).models) == ["chat-model"]
        asleep[7.0].set()
        await pauses.next(lambda seconds: seconds == 7.0)
        assert store.looks() == ()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(answers.seen) == 1


async def test_look_is_written_down_when_it_is_news(store: RegistryStore) -> None:
    """The same again is written once a minute; no catalog is rebuilt for it."""
    now = 0.0
    answers = Answers(listing(card("q")))
    async with server(answers) as url, discovery(store, [], clock=lambda: now) as looking:
        assert await looking.look(cluster(url))
        revision = store.revision()
        store.note_look(Look("llmd", "elsewhere", "failed", "planted", 1))
        assert await looking.look(cluster(url))
        assert [look.detail for look in store.looks()] == ["planted"]
        now = 61.0
        assert await looking.look(cluster(url))
        assert [look.detail for look in store.looks()] == [None]
    assert store.revision() == revision
