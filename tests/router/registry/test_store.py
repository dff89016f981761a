"""The store: keys, discovered rows, agents and usage in a real file."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Any

import pytest

from router.registry.manifest import Manifest, parse_manifest
from router.registry.revision import RevisionReader
from router.registry.rows import Announcement, Beat, FoundBackend, FoundModel, Look
from router.registry.store import RegistryStore, StoreError
from router.registry.usage_rows import UsageRow
from router.types import Price

LOCAL = FoundBackend("local", "local_agent", "http://127.0.0.1:5000", "local")
DECLARED = """
backends: [{name: b, dialect: openai, base_url: "http://h/v1", tier: external}]
models: [{id: m, deployments: [{backend: b, price: {input: 0.15, output: "0.60"}}]}]
policies: [{name: p, constraints: {max_cost_usd: 0.05}}]
"""


def usage_row(request_id: str, **values: Any) -> UsageRow:
    """Return a usage row with the columns that must be set."""
    given: dict[str, Any] = {
        "caller": "key_1",
        "caller_name": "a",
        "endpoint": "chat",
        "asked": "m",
        "status": 200,
        "stream": False,
        "cache": "miss",
        "attempts": (),
        "duration_ms": 1.0,
        "overhead_ms": 0.1,
        "created_at": 1_000,
    }
    return UsageRow(request_id, **{**given, **values})


def test_create_key_keeps_only_its_digest(store: RegistryStore) -> None:
    """The key itself is in no column; its SHA-256 and first characters are."""
    made = store.create_key("a", ["gpt-*"])
    (row,) = store.api_keys()
    assert made.key.startswith("sk-router-")
    assert len(made.key) == len("sk-router-") + 43
    assert row["sha256"] == hashlib.sha256(made.key.encode()).hexdigest()
    assert made.key.startswith(row["prefix"])
    assert made.key not in str(row)
    assert row["models"] == ["gpt-*"]


def test_revoke_key_is_for_good(store: RegistryStore) -> None:
    """Revoking keeps the row and the moment of the first time; an unknown id is nobody's."""
    made = store.create_key("a")
    first = store.revoke_key(made.id)
    assert first is not None
    assert first["revoked_at"] is not None
    assert store.revoke_key(made.id) == first
    assert store.revoke_key("key_x") is None


def test_revision_grows_with_changes_only(store: RegistryStore) -> None:
    """What a catalog depends on moves the revision; reading, usage and repetition do not."""
    assert store.revision() == 0
    store.create_key("a")
    assert store.revision() == 1
    assert store.replace_discovered(LOCAL, [FoundModel("m")])
    assert not store.replace_discovered(LOCAL, [FoundModel("m")])
    store.insert_usage([usage_row("r1")])
    assert store.apply(Manifest()) == ()
    assert store.revision() == 2


def test_revision_of_another_process_is_seen(store: RegistryStore) -> None:
    """A change over another connection is noticed by a reader that has read before."""
    reader = RevisionReader(store.database)
    assert reader.read()[1] == 0
    store.create_key("a")
    assert reader.read()[1] == 1
    reader.close()


def test_replace_discovered_keeps_what_it_learned(store: RegistryStore) -> None:
    """A model that stays keeps the moment of its discovery; one that is gone is removed."""
    store.replace_discovered(LOCAL, [FoundModel("m"), FoundModel("n")])
    before = {row["id"]: row["created_at"] for row in store.load().models}
    store.replace_discovered(LOCAL, [FoundModel("m", context_length=4096), FoundModel("m")])
    (model,) = store.load().models
    (deployment,) = store.load().deployments
    assert (model["id"], model["created_at"]) == ("m", before["m"])
    assert (deployment["id"], deployment["backend"]) == ("m@local", "local")


def test_forget_discovered_keeps_the_named_and_the_declared(store: RegistryStore) -> None:
    """Sources that are no longer named go with their models; nothing else does."""
    store.apply(parse_manifest(DECLARED))
    store.replace_discovered(LOCAL, [FoundModel("m")])
    store.replace_discovered(FoundBackend("openai", "openai", "https://o/v1", "external"), [FoundModel("gpt")])
    assert store.forget_discovered({"local"}) == ["openai"]
    assert store.forget_discovered({"local"}) == []
    rows = store.load()
    assert {(row["name"], row["source"]) for row in rows.backends} == {("b", "manifest"), ("local", "discovery")}
    assert {(row["id"], row["origin"]) for row in rows.models} == {("m", ""), ("m", "local")}


def test_forget_discovered_spares_what_another_router_looks_at(store: RegistryStore) -> None:
    """In a rollout the old routers do not know the new ones' sources, nor these theirs."""
    store.replace_discovered(FoundBackend("openai", "openai", "https://o/v1", "external"), [FoundModel("gpt")])
    store.note_look(Look("openai", "https://o/v1", "ok", None, 1_000, 1_000))
    assert store.forget_discovered((), 1_000) == []
    assert [look.backend for look in store.looks()] == ["openai"]
    assert store.forget_discovered((), 1_001) == ["openai"]
    assert store.looks() == ()


def test_apply_is_the_whole_declared_state(store: RegistryStore) -> None:
    """What the file does not name any more is removed; what was discovered stays."""
    store.replace_discovered(LOCAL, [FoundModel("found")])
    changes = store.apply(parse_manifest(DECLARED))
    assert [(change.action, change.kind, change.name) for change in changes] == [
        ("added", "backend", "b"),
        ("added", "model", "m"),
        ("added", "policy", "p"),
    ]
    changed = DECLARED.replace("0.15", "0.25").replace("name: p,", "name: q,")
    assert [(change.action, change.name) for change in store.apply(parse_manifest(changed))] == [
        ("changed", "m"),
        ("added", "q"),
        ("removed", "p"),
    ]
    assert {change.action for change in store.apply(Manifest())} == {"removed"}
    assert [row["id"] for row in store.load().models] == ["found"]


def test_apply_keeps_prices_exact(store: RegistryStore) -> None:
    """A price comes back to the digit."""
    store.apply(parse_manifest(DECLARED))
    (row,) = store.load().deployments
    assert (row["price_input"], row["price_cached_input"], row["price_output"]) == (
        Decimal("0.15"),
        None,
        Decimal("0.60"),
    )


def test_apply_keeps_whether_an_agent_takes_messages(store: RegistryStore) -> None:
    """What was probed of a declared agent survives a new manifest unless the agent has moved."""
    text = (
        'backends: [{name: mac, dialect: local_agent, base_url: "http://mac:5000", tier: local, timeouts: {idle: 1}}]'
    )
    store.apply(parse_manifest(text))
    assert store.declared_agents() == [("mac", "http://mac:5000", None)]
    assert store.set_accepts_messages("mac", "manifest", accepts=True)
    assert not store.set_accepts_messages("mac", "manifest", accepts=True)
    store.apply(parse_manifest(text.replace("idle: 1", "idle: 2")))
    assert store.load().backends[0]["accepts_messages"]
    store.apply(parse_manifest(text.replace("mac:5000", "mac:5001")))
    assert not store.load().backends[0]["accepts_messages"]


def test_insert_usage_is_idempotent(store: RegistryStore) -> None:
    """A row that is there already stays as it is, alone and in a batch."""
    store.insert_usage([usage_row("r1", cost_usd="0.1"), usage_row("r2")])
    store.insert_usage([usage_row("r1", cost_usd="9"), usage_row("r3")])
    store.insert_usage([])
    (total,) = store.usage_totals()
    assert (total.requests, total.cost_usd) == (3, Decimal("0.1"))


def test_insert_usage_tells_bad_rows_from_a_bad_database(store: RegistryStore) -> None:
    """A row that the database refuses is the row's fault."""
    with pytest.raises(StoreError) as caught:
        store.insert_usage([usage_row("r1", duration_ms=None)])
    assert caught.value.about_rows


def test_usage_totals_are_exact(store: RegistryStore) -> None:
    """Costs add up to the digit where floats would not; unknown costs are counted apart."""
    store.insert_usage(
        [usage_row(f"r{i}", cost_usd="0.1", prompt_tokens=10, completion_tokens=1) for i in range(3)]
        + [usage_row("u", prompt_tokens=5, completion_tokens=0), usage_row("e", status=502, error="upstream_timeout")]
        + [usage_row("other", caller="key_2", model="served", created_at=5_000, cost_usd="0.000000000001")]
    )
    first, second = store.usage_totals()
    assert (first.caller, first.model, first.requests, first.errors) == ("key_1", "m", 5, 1)
    assert (first.cost_usd, first.prompt_tokens, first.completion_tokens, first.unpriced) == (Decimal("0.3"), 35, 3, 1)
    assert (second.caller, second.model, second.cost_usd) == ("key_2", "served", Decimal("0.000000000001"))
    assert [total.caller for total in store.usage_totals(since=2_000)] == ["key_2"]


def announcement(id_: str = "a1", name: str = "Studio Mac", url: str = "http://mac:5000", *models: str) -> Announcement:
    """Return an agent's announcement."""
    served = tuple({"id": model, "capabilities": ["chat", "messages"], "context_length": 8192} for model in models)
    return Announcement(id_, name, url, served, "1.0", "M2 Ultra")


def test_register_agent_makes_a_backend(store: RegistryStore) -> None:
    """An agent becomes a local backend that serves its models for nothing and takes messages."""
    assert store.register_agent(announcement("a1", "Studio Mac", "http://mac:5000/", "m")) == "agent-studio-mac"
    rows = store.load()
    (backend,), (model,), (deployment,) = rows.backends, rows.models, rows.deployments
    assert (backend["base_url"], backend["tier"], backend["dialect"]) == ("http://mac:5000", "local", "local_agent")
    assert backend["accepts_messages"]
    assert (model["id"], model["context_length"]) == ("m", 8192)
    assert Price(deployment["price_input"], None, deployment["price_output"]) == Price(Decimal(0), None, Decimal(0))


def test_register_agent_again_is_no_news(store: RegistryStore) -> None:
    """The same announcement changes nothing that a catalog is built from; a new model does."""
    store.register_agent(announcement("a1", "mac", "http://mac:5000", "m"))
    before = store.revision()
    store.register_agent(announcement("a1", "mac", "http://mac:5000", "m"))
    assert store.revision() == before
    store.register_agent(announcement("a1", "mac", "http://mac:5000", "m", "n"))
    assert store.revision() == before + 1


def test_register_agent_names(store: RegistryStore) -> None:
    """Two living agents of one name get two backends; the same place is taken over."""
    assert store.register_agent(announcement("a1", "mac", "http://one:5000", "m")) == "agent-mac"
    assert store.register_agent(announcement("a2", "mac", "http://two:5000", "m")) == "agent-mac-2"
    assert store.register_agent(announcement("a3", "mac", "http://ONE:5000/", "m")) == "agent-mac-3"
    assert {row["id"] for row in store.agents()} == {"a2", "a3"}
    assert {row["name"] for row in store.load().backends} == {"agent-mac-2", "agent-mac-3"}
    store.mark_stale(["a2"])
    assert store.register_agent(announcement("a4", "mac", "http://four:5000", "m")) == "agent-mac"
    assert store.register_agent(announcement("a5", "...", "http://five:5000", "m")) == "agent-mac-2"


def test_beats_bring_a_stale_agent_back(store: RegistryStore) -> None:
    """Going silent and returning move the revision; a beat in between does not."""
    store.register_agent(announcement("a1", "mac", "http://mac:5000", "m"))
    store.mark_stale(["a1"])
    store.mark_stale(["a1"])
    assert store.revision() == 2
    store.write_beats([Beat("a1", 5, queued=2, running=1)])
    store.write_beats([Beat("a1", 6)])
    assert store.revision() == 3
    assert (store.agents()[0]["last_seen"], store.agents()[0]["stale"]) == (6, False)


def test_remove_agent_takes_its_backend_along(store: RegistryStore) -> None:
    """Nothing of a forgotten agent stays."""
    store.register_agent(announcement("a1", "mac", "http://mac:5000", "m"))
    store.remove_agent("a1")
    store.remove_agent("a1")
    rows = store.load()
    assert (rows.agents, rows.backends, rows.models, rows.deployments) == ((), (), (), ())
