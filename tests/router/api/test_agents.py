"""`/agents/*`: who may register, what a registration does, and OpenAI-shaped refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from router.api.agents import agents_router
from router.api.deps import add_error_handlers
from router.registry.catalog import CatalogSource
from router.registry.roster import AgentRoster
from router.registry.store import RegistryStore, open_store

REGISTRATION: dict[str, Any] = {
    "id": "agent-1",
    "name": "Studio Mac",
    "url": "http://mac.local:5000/",
    "version": "0.1.0",
    "device": "mps",
    "models": [
        {
            "id": "smol",
            "context_length": 8192,
            "max_output_tokens": 2048,
            "capabilities": ["chat", "messages"],
            "default": True,
            "loaded": True,
        }
    ],
    "something_new": 1,
}


class Scene:
    """An app with the agent routes alone, and clients that call it from wherever they like."""

    def __init__(self, store: RegistryStore, token: str | None) -> None:
        self.store = store
        self.catalog = CatalogSource(store)
        roster = AgentRoster(store, interval=5)
        self.app = FastAPI()
        add_error_handlers(self.app)
        self.app.include_router(agents_router(lambda _: roster, lambda _: self.catalog, token))

    async def post(
        self, path: str, body: Any, peer: str = "127.0.0.1", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send one request."""
        transport = httpx.ASGITransport(self.app, client=(peer, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
            return await client.post(path, json=body, headers=headers)

    async def register(
        self, peer: str = "127.0.0.1", headers: dict[str, str] | None = None, **changes: Any
    ) -> httpx.Response:
        """Send a registration."""
        return await self.post("/agents/register", {**REGISTRATION, **changes}, peer, headers)


@asynccontextmanager
async def scene(tmp_path: Path, token: str | None = None) -> AsyncIterator[Scene]:
    """Yield the app over a registry of its own."""
    store = open_store(tmp_path / "models.db")
    try:
        yield Scene(store, token)
    finally:
        store.close()


async def test_register_makes_the_models_available(tmp_path: Path) -> None:
    """An agent's models are in the catalog by the time that it is answered."""
    async with scene(tmp_path) as it:
        answer = await it.register()
        assert (answer.status_code, answer.json()) == (200, {"agent_id": "agent-1", "heartbeat_interval_s": 5})
        model = it.catalog.current.models["smol"]
        assert model.deployments[0].backend.base_url == "http://mac.local:5000"
        assert model.deployments[0].backend.accepts_messages
        assert model.capabilities == {"chat", "messages"}
        assert it.store.agents()[0]["device"] == "mps"


async def test_heartbeat(tmp_path: Path) -> None:
    """A known agent is heard; an unknown one is told to register again."""
    async with scene(tmp_path) as it:
        answer = await it.post("/agents/heartbeat", {"id": "agent-1", "queued": 0, "running": 0})
        assert answer.status_code == 404
        assert answer.json()["error"] | {"message": ""} == {
            "message": "",
            "type": "invalid_request_error",
            "param": "id",
            "code": "agent_not_found",
        }
        await it.register()
        answer = await it.post("/agents/heartbeat", {"id": "agent-1", "queued": 3, "running": 1})
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
async def test_without_a_token_this_machine_may_register(tmp_path: Path, peer: str) -> None:
    """Loopback in all its spellings is this machine."""
    async with scene(tmp_path) as it:
        assert (await it.register(peer)).status_code == 200


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("192.168.1.7", {}),
        ("::ffff:10.0.0.1", {}),
        ("testclient", {}),
        ("127.0.0.1", {"x-forwarded-for": "10.0.0.1"}),
        ("192.168.1.7", {"authorization": "Bearer anything"}),
    ],
)
async def test_without_a_token_other_machines_may_not(tmp_path: Path, peer: str, headers: dict[str, str]) -> None:
    """Others, also behind a proxy on this machine, are told which setting to set."""
    async with scene(tmp_path) as it:
        for answer in (
            await it.register(peer, headers),
            await it.post("/agents/heartbeat", {"id": "a"}, peer, headers),
        ):
            assert answer.status_code == 403
            assert answer.json()["error"]["code"] == "agent_token_required"
            assert "ROUTER_AGENT_TOKEN" in answer.json()["error"]["message"]
        assert it.store.agents() == ()


async def test_with_a_token_only_who_knows_it(tmp_path: Path) -> None:
    """A token is needed from everywhere once one is set."""
    async with scene(tmp_path, "s3cret") as it:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "s3cret"},
            {"authorization": "Bearer "},
        ):
            answer = await it.register("127.0.0.1", headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert (await it.register("192.168.1.7", {"authorization": "Bearer s3cret"})).status_code == 200


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"id": ""}, "id"),
        ({"id": None}, "id"),
        ({"name": "  "}, "name"),
        ({"url": "ftp://mac"}, "url"),
        ({"url": "http://user:pass@mac"}, "url"),
        ({"models": "smol"}, "models"),
        ({"models": [{"id": "a b"}]}, "models.0.id"),
        ({"models": [{"id": "m", "context_length": 0}]}, "models.0.context_length"),
    ],
)
async def test_register_refuses_nonsense(tmp_path: Path, changes: dict[str, Any], param: str) -> None:
    """A field that cannot be right is named in OpenAI's shape."""
    async with scene(tmp_path) as it:
        answer = await it.register(**changes)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_register_refuses_what_a_web_page_could_send(tmp_path: Path) -> None:
    """A cross-site form post carries no JSON content type, and is not taken for an agent."""
    async with scene(tmp_path) as it:
        answer = await it.register(headers={"content-type": "text/plain"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


async def test_register_while_the_registry_is_away(tmp_path: Path) -> None:
    """An agent is asked to come back, not told that it is wrong."""
    async with scene(tmp_path) as it:
        (tmp_path / "models.db").rename(tmp_path / "aside")
        answer = await it.register()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["error"]["code"] == "overloaded"
