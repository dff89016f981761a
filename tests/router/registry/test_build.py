"""build_catalog(): what shadows what, and what contradicts itself."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.registry.build import build_catalog, find_cycle, same_url
from router.registry.catalog import BUILT_IN_POLICIES, Catalog, InvalidCatalog
from router.registry.manifest import parse_manifest
from router.registry.rows import Announcement, FoundBackend, FoundModel, Rows
from router.registry.store import RegistryStore
from router.types import Model, Policy, Price

LOCAL = FoundBackend("local", "local_agent", "http://127.0.0.1:5000", "local")
OPENAI = FoundBackend("openai", "openai", "https://api.openai.com/v1", "external", "EXTERNAL_OPENAI_KEY")


def catalog_of(store: RegistryStore) -> Catalog:
    """Return the catalog of what is in the registry now."""
    return build_catalog(store.load())


def places(catalog: Catalog) -> list[str]:
    """Return the ids of all deployments."""
    return [place.id for model in catalog.models.values() for place in model.deployments]


def test_build_catalog_of_nothing() -> None:
    """An empty registry has the five built-in policies and no door."""
    catalog = build_catalog(Rows())
    assert list(catalog.policies) == ["auto", "auto-fast", "auto-cheap", "auto-best", "auto-local"]
    assert catalog.policies["auto-local"].constraints.privacy == "local"
    assert not catalog.has_keys
    assert catalog.caller("") is None


def test_build_catalog_from_discovery_alone(store: RegistryStore) -> None:
    """Two places that serve one model are its two deployments; the largest context counts."""
    store.replace_discovered(LOCAL, [FoundModel("m", 4096, capabilities=("chat", "messages", "prefill"))])
    llmd = FoundBackend("llmd", "openai", "http://gw/v1", "cluster")
    store.replace_discovered(llmd, [FoundModel("m", 32768, capabilities=("chat", "prefill")), FoundModel("n")])
    catalog = catalog_of(store)
    assert places(catalog) == ["m@llmd", "m@local", "n@llmd"]
    assert catalog.models["m"].context_length == 32768
    assert catalog.models["m"].capabilities == {"chat", "prefill"}
    assert catalog.backends["local"].accepts_messages
    assert not catalog.backends["llmd"].accepts_messages
    assert catalog.version == store.revision()


def test_a_declared_model_shadows_a_discovered_one(store: RegistryStore) -> None:
    """A declared model is served where the file says and nowhere else."""
    store.replace_discovered(LOCAL, [FoundModel("m"), FoundModel("n")])
    store.apply(parse_manifest("""
backends: [{name: b, dialect: openai, base_url: "http://h/v1", tier: external}]
models: [{id: m, aliases: [x], deployments: [{backend: b}, {backend: b, upstream_model: m-2}]}]
"""))
    catalog = catalog_of(store)
    assert places(catalog) == ["m@b/m", "m@b/m-2", "n@local"]
    assert catalog.resolve("x") is catalog.models["m"]


def test_a_declared_model_without_deployments_adds_its_facts(store: RegistryStore) -> None:
    """Quality, aliases and fallbacks may be declared for a model that discovery serves."""
    store.replace_discovered(OPENAI, [FoundModel("gpt"), FoundModel("mini")])
    store.apply(
        parse_manifest("models: [{id: gpt, aliases: [best], quality: {overall: 0.9}, fallbacks: [mini]}, {id: mini}]")
    )
    model = catalog_of(store).resolve("best")
    assert isinstance(model, Model)
    assert ([place.id for place in model.deployments], model.quality, model.fallbacks) == (
        ["gpt@openai"],
        {"overall": 0.9},
        ("mini",),
    )


def test_a_declared_model_leaves_open_what_its_places_say(store: RegistryStore) -> None:
    """A context that is not declared is what the same backend lists now, whatever the model is called there."""
    llmd = FoundBackend("llmd", "openai", "http://gw/v1", "cluster")
    store.replace_discovered(llmd, [FoundModel("up", 32640), FoundModel("elsewhere", 9)])
    store.apply(parse_manifest("""
backends:
  - {name: gpu, dialect: openai, base_url: "http://gw/v1/", tier: cluster}
  - {name: other, dialect: openai, base_url: "http://o/v1", tier: cluster}
models:
  - {id: open, deployments: [{backend: gpu, upstream_model: up}]}
  - {id: told, context_length: 4096, deployments: [{backend: gpu, upstream_model: up}]}
  - {id: elsewhere, deployments: [{backend: other}]}
  - {id: up, capabilities: [chat]}
"""))
    models = catalog_of(store).models
    assert {name: model.context_length for name, model in models.items()} == {
        "open": 32640,
        "told": 4096,
        "elsewhere": None,
        "up": 32640,
    }
    store.replace_discovered(llmd, [FoundModel("up", 8192)])
    assert catalog_of(store).models["open"].context_length == 8192


def test_an_adapter_costs_what_its_parent_costs_at_the_same_place(store: RegistryStore) -> None:
    """What it says of itself counts; a parent that adapts itself, or goes in circles, helps nobody."""
    llmd = FoundBackend("llmd", "openai", "http://gw/v1", "cluster")
    price = Price(Decimal(1), None, Decimal(2))
    found = [
        FoundModel("base", 4096, 512, ("chat", "tools"), price),
        FoundModel("a", parent="base"),
        FoundModel("b", 1024, 99, ("chat",), Price(Decimal(9)), "base"),
        FoundModel("self", parent="self"),
    ]
    store.replace_discovered(llmd, found)
    models = catalog_of(store).models
    a, b = models["a"], models["b"]
    assert (a.context_length, a.max_output_tokens, a.capabilities) == (4096, 512, {"chat", "tools"})
    assert (a.deployments[0].price, a.deployments[0].max_output_tokens) == (price, 512)
    assert (b.context_length, b.max_output_tokens, b.capabilities) == (1024, 99, {"chat"})
    assert b.deployments[0].price == Price(Decimal(9))
    assert models["self"].context_length is None


def test_a_declared_name_is_never_taken_by_a_discovered_model(store: RegistryStore) -> None:
    """A provider cannot take over an alias or a policy by offering a model of that name."""
    store.replace_discovered(OPENAI, [FoundModel("x"), FoundModel("p"), FoundModel("auto"), FoundModel("free")])
    store.apply(parse_manifest("""
backends: [{name: b, dialect: openai, base_url: "http://h/v1", tier: local}]
models: [{id: m, aliases: [x], deployments: [{backend: b}]}]
policies: [{name: p}]
"""))
    catalog = catalog_of(store)
    assert list(catalog.models) == ["m", "free"]
    assert isinstance(catalog.resolve("p"), Policy)
    assert isinstance(catalog.resolve("auto"), Policy)


def test_a_declared_backend_takes_over_a_discovered_one_at_its_url(store: RegistryStore) -> None:
    """Declaring a provider's backend tunes it; its discovered models move along."""
    store.replace_discovered(OPENAI, [FoundModel("gpt")])
    store.apply(parse_manifest("""
backends:
  - {name: mine, dialect: openai, base_url: "https://API.openai.com/v1/", tier: external, timeouts: {idle: 3}}
"""))
    catalog = catalog_of(store)
    assert list(catalog.backends) == ["mine"]
    assert places(catalog) == ["gpt@mine"]
    assert catalog.models["gpt"].deployments[0].backend.timeouts.idle == 3


def test_what_a_declared_backend_lists_is_asked_for_with_its_key(store: RegistryStore) -> None:
    """Two declared backends may be one address with two keys; what one lists is not asked for with the other's."""
    store.apply(
        parse_manifest(
            "backends:\n"
            "  - {name: a, dialect: openai, base_url: 'http://c', tier: cluster, api_key_env: KEY_A}\n"
            "  - {name: b, dialect: openai, base_url: 'http://c', tier: cluster, api_key_env: KEY_B, discover: true}\n"
        )
    )
    (source,) = store.declared_sources()
    store.replace_discovered(source, [FoundModel("found")])
    (place,) = build_catalog(store.load()).models["found"].deployments
    assert (place.id, place.backend.api_key_env) == ("found@b", "KEY_B")


def test_a_declared_backend_hides_a_discovered_one_of_its_name(store: RegistryStore) -> None:
    """Elsewhere under the same name is another place: what was found there is out of sight."""
    store.replace_discovered(OPENAI, [FoundModel("gpt")])
    store.apply(
        parse_manifest('backends: [{name: openai, dialect: openai, base_url: "http://proxy/v1", tier: cluster}]')
    )
    catalog = catalog_of(store)
    assert catalog.backends["openai"].base_url == "http://proxy/v1"
    assert dict(catalog.models) == {}


def test_an_agent_that_is_found_and_announced_is_one_backend(store: RegistryStore) -> None:
    """The announced one counts while it beats, the one found at its URL after that."""
    store.replace_discovered(LOCAL, [FoundModel("m")])
    store.register_agent(Announcement("a1", "mac", "http://localhost:5000/", ({"id": "m"},)))
    catalog = catalog_of(store)
    assert list(catalog.backends) == ["agent-mac"]
    assert places(catalog) == ["m@agent-mac"]
    store.mark_stale(["a1"])
    assert places(catalog_of(store)) == ["m@local"]


def test_a_stale_agent_is_marked(store: RegistryStore) -> None:
    """A silent agent stays in the catalog, marked."""
    store.register_agent(Announcement("a1", "mac", "http://mac:5000", ({"id": "m"},)))
    assert not catalog_of(store).backends["agent-mac"].stale
    store.mark_stale(["a1"])
    assert catalog_of(store).models["m"].deployments[0].backend.stale


def test_messages_as_a_capability_or_by_probe(store: RegistryStore) -> None:
    """A declared agent takes messages where a model of it says so, or where it was asked."""
    text = """
backends:
  - {name: one, dialect: local_agent, base_url: "http://one:5000", tier: local}
  - {name: two, dialect: local_agent, base_url: "http://two:5000", tier: local}
models: [{id: m, capabilities: [chat, messages], deployments: [{backend: one}]}]
"""
    store.apply(parse_manifest(text))
    backends = catalog_of(store).backends
    assert (backends["one"].accepts_messages, backends["two"].accepts_messages) == (True, False)
    assert catalog_of(store).models["m"].deployments[0].backend.accepts_messages
    store.set_accepts_messages("two", "manifest", accepts=True)
    assert catalog_of(store).backends["two"].accepts_messages


def test_declared_policies_replace_built_in_ones(store: RegistryStore) -> None:
    """A policy of the same name counts instead; so does a model of the same name."""
    store.replace_discovered(OPENAI, [FoundModel("gpt"), FoundModel("mini")])
    store.apply(
        parse_manifest("policies: [{name: auto, candidates: [mini, 'g*']}]\nmodels: [{id: x, aliases: [auto-fast]}]")
    )
    catalog = catalog_of(store)
    auto = catalog.resolve("auto")
    assert isinstance(auto, Policy)
    assert [model.id for model in catalog.members(auto)] == ["mini", "gpt"]
    assert isinstance(catalog.resolve("auto-fast"), Model)
    assert "auto-fast" not in catalog.policies


def test_members_of_a_foreign_policy_are_expanded(store: RegistryStore) -> None:
    """A policy that the catalog does not hold is expanded on the spot; aliases count, not as globs."""
    store.replace_discovered(OPENAI, [FoundModel("gpt"), FoundModel("mini")])
    store.apply(parse_manifest("models: [{id: gpt, aliases: [best]}]"))
    catalog = catalog_of(store)
    assert [model.id for model in catalog.members(Policy("mine", ("best", "gpt", "nothing")))] == ["gpt"]
    assert catalog.members(Policy("mine", ("b*",))) == ()
    assert {model.id for model in catalog.members(BUILT_IN_POLICIES[0])} == {"gpt", "mini"}


def test_callers(store: RegistryStore) -> None:
    """A key is known until it is revoked, and the door stays shut after that."""
    made = store.create_key("a", ["gpt-*"])
    caller = catalog_of(store).caller(made.key)
    assert caller is not None
    assert (caller.id, caller.name, caller.models) == (made.id, "a", ("gpt-*",))
    assert catalog_of(store).caller(made.key + " ") is None
    assert catalog_of(store).caller("\udc80") is None
    store.revoke_key(made.id)
    assert catalog_of(store).caller(made.key) is None
    assert catalog_of(store).has_keys


def _declared(**changes: Any) -> Rows:
    """Return rows as a manifest would make them, then changed by other hands."""
    row = {
        "id": "m", "origin": "", "source": "manifest", "aliases": [], "context_length": None,
        "max_output_tokens": None, "capabilities": [], "quality": {}, "fallbacks": [], "created_at": 0,
    }  # fmt: skip
    return Rows(models=tuple({**row, "id": name, **facts} for name, facts in changes.items()))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (_declared(m={"aliases": ["x"]}, n={"aliases": ["x"]}), "'x' stands for two models"),
        (_declared(m={"aliases": ["n"]}, n={}), "'n' stands for two models"),
        (_declared(m={"fallbacks": ["zz"]}), "falls back to 'zz'"),
        (_declared(m={"fallbacks": ["n"]}, n={"fallbacks": ["m"]}), "form a circle: m → n → m"),
        (
            replace(
                _declared(m={}),
                policies=({"name": "m", "candidates": ["*"], "weights": {}, "constraints": {}, "hedge": None},),
            ),
            "a model and for a policy",
        ),
        (
            replace(
                _declared(m={}),
                deployments=({"id": "m@b", "source": "manifest", "model": "m", "origin": "", "backend": "b"},),
            ),
            "deployed on 'b', which is no backend",
        ),
    ],
)
def test_build_catalog_refuses_contradictions(rows: Rows, sentence: str) -> None:
    """Rows that contradict each other are refused in a sentence."""
    with pytest.raises(InvalidCatalog, match=sentence):
        build_catalog(rows)


@pytest.mark.parametrize(
    ("one", "other"),
    [("http://A/v1/", "http://a/v1"), ("http://localhost:5000", "http://127.0.0.1:5000/"), ("HTTP://h", "http://h")],
)
def test_same_url(one: str, other: str) -> None:
    """Two spellings of one place are equal; a path keeps its case."""
    assert same_url(one) == same_url(other)
    assert same_url(one + "/P") != same_url(other + "/p")


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 8), max_size=4)))
def test_find_cycle_finds_one_exactly_where_there_is_one(edges: dict[int, list[int]]) -> None:
    """Any path returned is a circle along the edges; none is returned where an order exists."""
    graph = {str(name): [str(after) for after in following] for name, following in edges.items()}
    cycle = find_cycle(graph)
    if cycle is None:
        left = dict(graph)
        while left:
            free = [name for name, after in left.items() if not any(item in left for item in after)]
            assert free
            left = {name: after for name, after in left.items() if name not in free}
    else:
        assert cycle[0] == cycle[-1]
        assert all(after in graph[name] for name, after in pairwise(cycle))
