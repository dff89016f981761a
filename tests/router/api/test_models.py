"""`GET /v1/models` and `/v1/models/{id}` on a live router."""

from __future__ import annotations

from pathlib import Path

import openai

from tests.router.api.test_chat import assert_openai_error
from tests.support.router import live_router, manifest_for
from tests.support.upstream import scripted_upstream


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
