"""The gateway's line: what is accounted, permitted, resolved and refused, on a live router."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

from router.registry.manifest import parse_manifest
from tests.router.api.test_chat import assert_openai_error
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, fail, scripted_upstream


async def usage_rows(tmp_path: Path, expected: int) -> list[dict[str, Any]]:
    """Return the usage rows once there are as many as expected."""
    for _ in range(500):
        connection = sqlite3.connect(tmp_path / "models.db")
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute("SELECT * FROM usage ORDER BY created_at")]
        connection.close()
        if len(rows) >= expected:
            return rows
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(rows)} usage rows, not {expected}")


async def test_gateway_writes_one_usage_row_for_each_request(tmp_path: Path) -> None:
    """Answers, streams, refusals and failures each leave one row with what they came to."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        await router.chat()
        await router.chat(stream=True)
        await router.chat(model="nope")
        upstream.script = fail(500)
        await router.chat()
        rows = await usage_rows(tmp_path, 4)
    assert [row["status"] for row in rows] == [200, 200, 404, 502]
    assert [row["error"] for row in rows] == [None, None, "model_not_found", "upstream_unavailable"]
    for row in rows[:2]:
        assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (7, 5, "reported")
        assert row["deployment"] == "m@b0"
    assert rows[3]["prompt_tokens"] is None
    assert len({row["request_id"] for row in rows}) == 4


async def test_gateway_accounts_for_a_client_that_left(tmp_path: Path) -> None:
    """What was delivered before the client left is billed once, as an estimate."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"content": "delivered"}))
        await request.closed_early.wait()

    async with scripted_upstream(script) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with router.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for _ in answer.aiter_bytes():
                break
        rows = await usage_rows(tmp_path, 1)
    assert rows[0]["error"] == "client_disconnected"
    assert rows[0]["usage_source"] == "estimated"
    assert rows[0]["completion_tokens"] > 0


async def test_gateway_needs_a_key_once_there_is_one(tmp_path: Path) -> None:
    """The first key shuts the door to everybody else, at once and without a restart."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        assert (await router.chat()).status_code == 200
        made = await asyncio.to_thread(router.store.create_key, "alice", ("m",))
        assert (await router.chat(headers=bearer(made.key))).status_code == 200
        for headers in (None, bearer("sk-router-wrong"), {"authorization": f"Basic {made.key}"}):
            await router.refresh()
            refused = await router.chat(headers=headers)
            assert refused.status_code == 401
            assert_openai_error(refused, "invalid_api_key")
        for path in ("/v1/models", "/v1/models/m"):
            assert (await router.client.get(path)).status_code == 401
            assert (await router.client.get(path, headers=bearer(made.key))).status_code == 200
        forbidden = await router.chat(model="auto", headers=bearer(made.key))
        assert forbidden.status_code == 403
        assert_openai_error(forbidden, "model_not_allowed", "model")


async def test_gateway_keeps_the_door_shut_when_the_last_key_is_revoked(tmp_path: Path) -> None:
    """A revoked key is a 401, and revoking the only key does not open the router."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        made = await asyncio.to_thread(router.store.create_key, "alice")
        assert (await router.chat(headers=bearer(made.key))).status_code == 200
        await asyncio.to_thread(router.store.revoke_key, made.id)
        await router.refresh()
        for headers in (bearer(made.key), None):
            refused = await router.chat(headers=headers)
            assert refused.status_code == 401
            assert_openai_error(refused, "invalid_api_key")


async def test_gateway_sees_an_applied_registry_at_once(tmp_path: Path) -> None:
    """A backend that is applied answers the next request; one that is taken out is gone."""
    async with scripted_upstream() as upstream, live_router(tmp_path) as router:
        assert (await router.chat()).status_code == 404
        await apply(router, manifest_for(upstream.url))
        assert (await router.chat()).status_code == 200
        listed = (await router.client.get("/v1/models")).json()["data"]
        assert {"m", "auto", "auto-fast", "auto-cheap", "auto-best", "auto-local"} == {entry["id"] for entry in listed}
        await apply(router, "backends: []\n")
        await router.refresh()
        assert (await router.chat()).status_code == 404


async def test_gateway_keeps_a_private_request_at_home(tmp_path: Path) -> None:
    """Privacy is a hard constraint: no candidate is better than one that is too far away."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        for wish in ({"headers": {"x-router-privacy": "local"}}, {"router": {"privacy": "local"}}):
            refused = await router.chat(**wish)  # type: ignore[arg-type]
            assert refused.status_code == 503
            error = assert_openai_error(refused, "no_candidate")
            assert "privacy local" in error["message"]
        assert (await router.chat(model="auto-local")).status_code == 503
        assert upstream.requests == []


async def test_gateway_respects_a_maximum_cost(tmp_path: Path) -> None:
    """A request that must not cost more than it would is refused before it costs anything."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        dear = await router.chat(headers={"x-router-max-cost-usd": "0.000001"})
        assert_openai_error(dear, "no_candidate")
        assert upstream.requests == []
        assert (await router.chat(headers={"x-router-max-cost-usd": "1"})).status_code == 200


async def test_gateway_strips_its_own_field_from_the_body(tmp_path: Path) -> None:
    """The `router` object is for the router alone."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        assert (await router.chat(router={"fallback": False, "session": "s"})).status_code == 200
        assert "router" not in upstream.requests[0].json


async def test_gateway_tells_a_prompt_that_is_too_long(tmp_path: Path) -> None:
    """What certainly does not fit is refused with the code that clients know."""
    async with scripted_upstream() as upstream:
        manifest = manifest_for(upstream.url).replace("aliases: [m-alias]", "context_length: 100")
        async with live_router(tmp_path, manifest) as router:
            refused = await router.chat("word " * 2000)
            assert refused.status_code == 400
            assert_openai_error(refused, "context_length_exceeded", "messages")


async def test_gateway_answers_concurrent_streams(tmp_path: Path) -> None:
    """Many streams at once each get their own whole answer."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        answers = await asyncio.gather(*(router.chat(str(number), stream=True) for number in range(50)))
        assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
        rows = await usage_rows(tmp_path, 50)
    assert len(rows) == 50


def bearer(key: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"authorization": f"Bearer {key}"}


async def apply(router: LiveRouter, manifest: str) -> None:
    """Apply a manifest, as `routerctl apply` does from another process."""
    await asyncio.to_thread(router.store.apply, parse_manifest(manifest))


async def test_keys_are_not_called_invalid_while_the_registry_is_away(tmp_path: Path) -> None:
    """A known key goes on working; one that may have been made meanwhile is asked to come back, not sent away."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        made = await asyncio.to_thread(router.store.create_key, "a")
        await router.refresh()
        (tmp_path / "models.db").rename(tmp_path / "aside")
        known = await router.chat(headers=bearer(made.key))
        assert known.status_code == 200
        perhaps = await router.chat(headers=bearer("sk-router-just-made-elsewhere"))
        assert_openai_error(perhaps, "overloaded")
        assert perhaps.status_code == 503
        assert perhaps.headers["retry-after"] == "2"
        assert_openai_error(await router.chat(), "invalid_api_key")
        (tmp_path / "aside").rename(tmp_path / "models.db")
        assert_openai_error(await router.chat(headers=bearer("sk-router-wrong")), "invalid_api_key")
