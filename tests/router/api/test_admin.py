"""`/admin/v1/*`: shut without a key, thin over the store, and the same shapes as `routerctl --json`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from router.api.admin import admin_router
from router.api.deps import add_error_handlers
from router.registry.catalog import CatalogSource
from router.registry.manifest import parse_manifest
from router.registry.rows import Announcement
from router.registry.store import RegistryStore, open_store

KEY = "admin-key"
ROUTES = [
    ("GET", "models"),
    ("GET", "backends"),
    ("GET", "policies"),
    ("GET", "agents"),
    ("GET", "keys"),
    ("POST", "keys"),
    ("DELETE", "keys/key_1"),
    ("POST", "apply"),
    ("GET", "export"),
    ("GET", "usage"),
]
MANIFEST = """
backends: [{name: b, dialect: openai, base_url: "http://h/v1", tier: external, api_key_env: B_KEY}]
models: [{id: m, deployments: [{backend: b, price: {input: 0.15}}]}]
"""


@asynccontextmanager
async def admin(
    tmp_path: Path, key: str | None = KEY, sent: str | None = KEY
) -> AsyncIterator[tuple[httpx.AsyncClient, RegistryStore, CatalogSource]]:
    """Yield a client of an app with the admin routes alone, its registry and its catalog."""
    store = open_store(tmp_path / "models.db")
    catalog = CatalogSource(store)
    app = FastAPI()
    add_error_handlers(app)
    app.include_router(admin_router(lambda _: store, lambda _: catalog, key))
    headers = {} if sent is None else {"authorization": f"Bearer {sent}"}
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://router/admin/v1/", headers=headers
        ) as client:
            yield client, store, catalog
    finally:
        store.close()


@pytest.mark.parametrize(("method", "route"), ROUTES)
async def test_routes_are_shut(tmp_path: Path, method: str, route: str) -> None:
    """Without a configured key every route says which setting opens it; with one, only that key does."""
    async with admin(tmp_path, key=None) as (client, *_):
        answer = await client.request(method, route)
        assert answer.status_code == 403
        assert "ROUTER_ADMIN_KEY" in answer.json()["error"]["message"]
    for sent in (None, "wrong", "", "ädmin"):
        async with admin(tmp_path, sent=None) as (client, *_):
            headers = [] if sent is None else [(b"authorization", f"Bearer {sent}".encode())]
            answer = await client.request(method, route, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_apply_and_lists(tmp_path: Path) -> None:
    """A manifest is in force once its answer is there; applying it again changes nothing."""
    async with admin(tmp_path) as (client, store, catalog):
        answer = await client.post("apply", content=MANIFEST, headers={"content-type": "application/yaml"})
        assert answer.json()["added"] == [{"kind": "backend", "name": "b"}, {"kind": "model", "name": "m"}]
        assert list(catalog.current.models) == ["m"]
        answer = await client.post("apply", json={"models": []})
        assert [change["name"] for change in answer.json()["removed"]] == ["b", "m"]
        await client.post("apply", content=MANIFEST)
        store.register_agent(Announcement("a1", "mac", "http://mac:5000", ({"id": "smol"},)))
        await catalog.refresh()
        names = {}
        for route in ("models", "backends", "policies", "agents"):
            body = (await client.get(route)).json()
            assert body["object"] == "list"
            names[route] = [item.get("id") if route == "models" else item["name"] for item in body["data"]]
        assert names == {
            "models": ["m", "smol"],
            "backends": ["b", "agent-mac"],
            "policies": ["auto", "auto-fast", "auto-cheap", "auto-best", "auto-local"],
            "agents": ["mac"],
        }


async def test_export_reads_back(tmp_path: Path) -> None:
    """The declared state comes as YAML, or as JSON to who asks for that."""
    async with admin(tmp_path) as (client, *_):
        await client.post("apply", content=MANIFEST)
        as_yaml = await client.get("export")
        as_json = await client.get("export", headers={"accept": "application/json"})
        assert as_yaml.headers["content-type"] == "application/yaml"
        assert parse_manifest(as_yaml.text) == parse_manifest(MANIFEST)
        assert parse_manifest(json.dumps(as_json.json())) == parse_manifest(MANIFEST)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"models: [{id: m, fallbacks: [n]}]",
            "manifest:1: models[0].fallbacks[0]: there is no model 'n' in this file",
        ),
        (b"\xff", "The manifest is not UTF-8 text."),
        (b"- 1", "manifest:1: must be a mapping with backends, models and policies"),
    ],
)
async def test_apply_refuses_a_wrong_manifest(tmp_path: Path, content: bytes, message: str) -> None:
    """The caller learns line and field, and nothing has changed."""
    async with admin(tmp_path) as (client, store, _):
        answer = await client.post("apply", content=content)
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)
        assert store.revision() == 0


async def test_keys(tmp_path: Path) -> None:
    """A key works from the answer that shows it until the one that revokes it."""
    async with admin(tmp_path) as (client, _, catalog):
        made = (await client.post("keys", json={"name": "bob", "models": ["gpt-*"], "objective": "gold"})).json()
        caller = catalog.current.caller(made["key"])
        assert caller is not None
        assert (caller.id, caller.models, caller.objective) == (made["id"], ("gpt-*",), "gold")
        listed = (await client.get("keys")).json()["data"]
        assert [key["objective"] for key in listed] == ["gold"]
        assert [key["id"] for key in listed] == [made["id"]]
        assert made["key"] not in json.dumps(listed)
        assert (await client.delete(f"keys/{made['id']}")).json()["revoked_at"] is not None
        assert catalog.current.caller(made["key"]) is None
        answer = await client.delete("keys/key_0")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": ""}, "name"),
        ({"models": []}, "models"),
        ({"objective": "Not This"}, "objective"),
        ({"nmae": "x"}, "nmae"),
        ([], None),
    ],
)
async def test_create_key_refuses_nonsense(tmp_path: Path, body: object, param: str | None) -> None:
    """A field that cannot be right is named."""
    async with admin(tmp_path) as (client, store, _):
        answer = await client.post("keys", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert store.api_keys() == ()


async def test_usage(tmp_path: Path) -> None:
    """Totals come since a moment; what is no moment is refused."""
    async with admin(tmp_path) as (client, *_):
        assert (await client.get("usage", params={"since": "24h"})).json() == {"object": "list", "data": []}
        answer = await client.get("usage", params={"since": "soon"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "since")
