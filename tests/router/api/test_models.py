"""`GET /v1/models` and `/v1/models/{id}` on a live router."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import openai

from tests.router.api.test_chat import assert_openai_error
from tests.support.router import live_router, manifest_for
from tests.support.upstream import fail, scripted_upstream


async def test_models_lists_models_and_policies_for_the_sdk(tmp_path: Path) -> None:
    """The SDK lists every model and policy, and retrieves one by its id."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        client = openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0)
        listed = [model async for model in client.models.list()]
        assert {"m", "auto", "auto-local"} <= {model.id for model in listed}
        assert all(model.object == "model" and isinstance(model.created, int) for model in listed)
        assert (await client.models.retrieve("m")).id == "m"
        await client.close()


async def test_models_retrieves_by_alias_and_id_with_slashes(tmp_path: Path) -> None:
    """Ids may hold slashes, encoded or not, and an alias leads to its model."""
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url, models="org/family/model")) as router:
            for name in ("org/family/model", "org%2Ffamily%2Fmodel", "m-alias"):
                answer = await router.client.get(f"/v1/models/{name}")
                assert answer.status_code == 200
                assert answer.json()["id"] == "org/family/model"
            assert (await router.chat(model="org/family/model")).status_code == 200


async def test_models_refuses_an_unknown_name(tmp_path: Path) -> None:
    """A name that nothing has is the documented 404."""
    async with live_router(tmp_path) as router:
        answer = await router.client.get("/v1/models/nope")
        assert answer.status_code == 404
        assert_openai_error(answer, "model_not_found", "model")
        wrong = await router.client.post("/v1/models")
        assert wrong.status_code == 405
        assert_openai_error(wrong, "method_not_allowed")


async def test_models_say_what_they_can_and_how_they_are(tmp_path: Path) -> None:
    """Tiers, context, capabilities, and whether anybody can answer now; a policy is what its members are."""
    async with scripted_upstream(fail(500)) as upstream:
        facts = "context_length: 4096\n    max_output_tokens: 512\n    capabilities: [chat, tools]\n    aliases:"
        breaker = "{enabled: true, failures: 1, cooldown: 60}"
        manifest = manifest_for(upstream.url, breaker=breaker).replace("aliases:", facts)
        async with live_router(tmp_path, manifest) as router:
            model = (await router.client.get("/v1/models/m")).json()
            assert isinstance(model.pop("created"), int)
            assert model == {
                "id": "m",
                "object": "model",
                "owned_by": "b0",
                "parent": None,
                "aliases": ["m-alias"],
                "context_length": 4096,
                "max_model_len": 4096,
                "max_output_tokens": 512,
                "capabilities": ["chat", "tools"],
                "tiers": ["external"],
                "available": True,
                "reason": None,
                "deployments": {"total": 1, "available": 1},
            }
            assert (await router.chat()).status_code == 502
            listed = {entry["id"]: entry for entry in (await router.client.get("/v1/models")).json()["data"]}
            for name in ("m", "auto"):
                assert listed[name]["available"] is False
                assert listed[name]["reason"]
                assert listed[name]["deployments"] == {"total": 1, "available": 0}
                assert listed[name]["context_length"] == 4096
            local = listed["auto-local"]
            assert (local["tiers"], local["available"]) == ([], False)
            assert (local["policy"], local["owned_by"], local["created"]) == (True, "router", 0)


async def test_models_in_anthropics_shape(tmp_path: Path) -> None:
    """A client that names Anthropic's version gets Anthropic's list, its only page."""
    version = {"anthropic-version": "2023-06-01"}
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        page = (await router.client.get("/v1/models?limit=1000", headers=version)).json()
        assert set(page) == {"data", "has_more", "first_id", "last_id"}
        assert page["has_more"] is False
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        one = (await router.client.get("/v1/models/m", headers=version)).json()
        assert one == page["data"][0]
        assert (one["type"], one["id"], one["display_name"]) == ("model", "m", "m")
        assert datetime.fromisoformat(one["created_at"].replace("Z", "+00:00")).tzinfo is not None
