"""`/healthz`, `/readyz`, `/metrics` and the OpenAPI page on a live router."""

from __future__ import annotations

from pathlib import Path

from tests.support.router import live_router, manifest_for
from tests.support.upstream import scripted_upstream


async def test_readyz_says_what_is_missing(tmp_path: Path) -> None:
    """A router without Redis and without models is ready but degraded, and says of each why."""
    async with live_router(tmp_path) as router:
        answer = await router.client.get("/readyz")
        assert answer.status_code == 200
        said = answer.json()
        assert said["status"] == "degraded"
        assert "Redis" in said["checks"]["redis"]["detail"]
        assert "no model" in said["checks"]["registry"]["detail"]


async def test_readyz_says_no_once_the_router_leaves(tmp_path: Path) -> None:
    """Load balancers look elsewhere; the process itself is well, and what still comes is answered."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        router.services.presence.leaving = True
        answer = await router.client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "leaving")
        assert (await router.client.get("/healthz")).status_code == 200
        assert (await router.chat()).status_code == 200


async def test_metrics_count_requests_tokens_and_cost(tmp_path: Path) -> None:
    """A request moves the counters; a name that the caller made up becomes no label."""
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        await router.chat()
        await router.chat(model="invented-name")
        text = (await router.client.get("/metrics")).text
    assert 'router_requests_total{backend="b0",cache="off",model="m",status="200"} 1.0' in text
    assert 'router_requests_total{backend="none",cache="off",model="unknown",status="404"} 1.0' in text
    assert 'router_tokens_total{backend="b0",kind="prompt",model="m"} 7.0' in text
    assert 'router_cost_usd_total{backend="b0",model="m"} 1.7e-05' in text
    assert "router_in_flight_requests 0.0" in text
    assert "invented-name" not in text


async def test_openapi_describes_the_data_plane(tmp_path: Path) -> None:
    """The chat route is plain ASGI and still fully described."""
    async with live_router(tmp_path) as router:
        described = (await router.client.get("/openapi.json")).json()
        chat = described["paths"]["/v1/chat/completions"]["post"]
        assert chat["requestBody"]["content"]["application/json"]["schema"]["required"] == ["model", "messages"]
        assert {"200", "400", "401", "404", "502"} <= set(chat["responses"])
        assert "/v1/models" in described["paths"]
        assert (await router.client.get("/docs")).status_code == 200
