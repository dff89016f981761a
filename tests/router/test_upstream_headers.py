"""What an llm-d cluster is told of a request, and what nobody but the router may tell it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.registry.manifest import InvalidManifest, parse_manifest
from router.types import Caller
from tests.support.router import LiveRouter, live_router, manifest_for
from tests.support.upstream import Script, ScriptedReply, SeenRequest, completion, fail, say, scripted_upstream

FORGED = {
    "X-LLM-D-Inference-Objective": "premium",
    "x-llm-d-inference-fairness-id": "somebody-else",
    "x-llm-d-model-name-rewrite": "another-model",
    "x-llm-d-slo-ttft-ms": "1",
    "x-gateway-inference-objective": "premium",
    "x-gateway-inference-fairness-id": "somebody-else",
    "x-gateway-model-name-rewrite": "another-model",
    "x-gateway-destination-endpoint": "10.0.0.9:8000",
    "x-gateway-destination-endpoint-subset": "10.0.0.9:8000",
    "X-SLO-TTFT-MS": "1",
    "x-prefiller-host-port": "10.0.0.9:8000",
    "x-encoder-hosts-ports": "10.0.0.9:8000",
    "x-data-parallel-host-port": "10.0.0.9:8000",
    "x-data-parallel-rank": "3",
    "x-kv-cache-source-host-port": "10.0.0.9:8000",
    "x-session-token": "cG9kLTE=",
    "x-session-affinity": "somebody-else",
    "X-Vllm-Priority": "-9",
    "prefer": "reserve-endpoint",
}
OURS = ("x-llm-d-", "x-gateway-", "x-slo-", "x-session-")


def steering(request: SeenRequest) -> dict[str, str]:
    """Return the headers of a request that steer a cluster."""
    told = {name.lower() for name in FORGED}
    return {name: value for name, value in request.headers.items() if name.startswith(OURS) or name in told}


def bearer(key: str) -> dict[str, str]:
    """Return the headers that a client with a key sends."""
    return {"authorization": f"Bearer {key}"}


async def keyed(router: LiveRouter, objective: str | None = None) -> tuple[str, str]:
    """Make a key and return its id and itself."""
    made = router.store.create_key("k", objective=objective)
    await router.refresh()
    return made.id, made.key


def cluster(url: str, **backend: Any) -> str:
    """Return a manifest with a backend of the cluster tier."""
    return manifest_for(url, **backend).replace("tier: external", "tier: cluster")


@pytest.mark.parametrize("transport", ["lean", "httpx"])
async def test_cluster_is_told_tenant_objective_and_when_the_first_token_is_due(tmp_path: Path, transport: str) -> None:
    """The key's id, not the key; its objective; the wish: and nothing that the client says of them."""
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, cluster(upstream.url), transport=transport) as router:
            gold, gold_key = await keyed(router, "gold.tier")
            plain, plain_key = await keyed(router)
            wish = {"x-router-first-token-ms": "750"}
            for headers in (bearer(gold_key) | wish | FORGED, bearer(plain_key) | FORGED, bearer(plain_key)):
                answer = await router.chat(headers=headers)
                assert answer.status_code == 200
                assert not any(name.startswith(OURS) for name in answer.headers)
        first, second, third = (steering(request) for request in upstream.requests)
    assert first == {
        "x-llm-d-inference-fairness-id": gold,
        "x-llm-d-inference-objective": "gold.tier",
        "x-llm-d-slo-ttft-ms": "750",
    }
    assert second == third == {"x-llm-d-inference-fairness-id": plain}
    assert gold_key not in str(upstream.requests)


async def test_cluster_is_told_a_policys_limit(tmp_path: Path) -> None:
    """The first token is due when the policy says, or sooner where the client wishes that."""
    manifest = "policies: [{name: quick, candidates: [m], constraints: {first_token_ms: 900}}]\n"
    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, cluster(upstream.url) + manifest) as router:
            for wish in ("", "2000", "300"):
                headers = {"x-router-first-token-ms": wish} if wish else {}
                assert (await router.chat(model="quick", headers=headers)).status_code == 200
        told = [request.headers["x-llm-d-slo-ttft-ms"] for request in upstream.requests]
    assert told == ["900", "900", "300"]


async def test_cluster_is_told_nothing_of_nobody(tmp_path: Path) -> None:
    """Without keys there is no tenant; the forged one does not count either."""
    async with scripted_upstream() as upstream, live_router(tmp_path, cluster(upstream.url)) as router:
        assert (await router.chat(headers=FORGED)).status_code == 200
        assert steering(upstream.requests[0]) == {}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/completions", "/v1/embeddings"])
async def test_cluster_is_told_the_same_on_every_route(tmp_path: Path, path: str) -> None:
    """Also where a request is carried over chat."""
    said = {"input": "Hi", "prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        choice = {"index": 0, "text": "Hi", "finish_reason": "stop"}
        if request.path.endswith("/embeddings"):
            await reply.json({"object": "list", "data": [{"index": 0, "embedding": [0.5]}]})
        elif request.path.endswith("/chat/completions"):
            await reply.json(completion("Hi"))
        else:
            await reply.json({"object": "text_completion", "choices": [choice]})

    fields = {
        "/v1/messages": ("messages", "max_tokens"),
        "/v1/responses": ("input",),
        "/v1/completions": ("prompt",),
        "/v1/embeddings": ("input",),
    }
    body = {"model": "m", **{name: said[name] for name in fields[path]}}
    async with scripted_upstream(script) as upstream, live_router(tmp_path, cluster(upstream.url)) as router:
        id_, key = await keyed(router, "gold")
        wish = {"x-router-first-token-ms": "9000"}
        answer = await router.client.post(path, json=body, headers=bearer(key) | wish | FORGED)
        assert answer.status_code == 200, answer.text
        assert steering(upstream.requests[0]) == {
            "x-llm-d-inference-fairness-id": id_,
            "x-llm-d-inference-objective": "gold",
            "x-llm-d-slo-ttft-ms": "9000",
        }


@pytest.mark.parametrize("tier", ["local", "external"])
async def test_other_backends_are_told_nothing(tmp_path: Path, tier: str) -> None:
    """Neither ours nor the client's reach a provider or a machine of one's own."""
    async with scripted_upstream() as upstream:
        manifest = manifest_for(upstream.url).replace("tier: external", f"tier: {tier}")
        async with live_router(tmp_path, manifest) as router:
            _, key = await keyed(router, "gold")
            sent = bearer(key) | FORGED | {"x-router-first-token-ms": "9000"}
            assert (await router.chat(headers=sent, priority=1)).status_code == 200
        assert steering(upstream.requests[0]) == {}
        assert upstream.requests[0].json["priority"] == 1


@pytest.mark.parametrize("tier", ["cluster", "external"])
def test_manifest_may_not_forward_what_steers_a_cluster(tier: str) -> None:
    """Whatever its spelling, and to whichever backend, it is refused with its place and why."""
    names = [name for name in FORGED if name != "prefer" or tier == "cluster"]
    manifest = manifest_for("http://h/v1", forward_headers=f"[openai-beta, {', '.join(names)}, x-session-id]")
    with pytest.raises(InvalidManifest) as refused:
        parse_manifest(manifest.replace("tier: external", f"tier: {tier}"))
    assert len(refused.value.problems) == len(names)
    assert refused.value.problems[0] == (
        "manifest:2: backends[0].forward_headers[1]: 'X-LLM-D-Inference-Objective' steers a cluster, "
        "so no client's may be forwarded"
    )


async def test_a_registry_from_before_that_rule_forwards_nothing_of_it(tmp_path: Path) -> None:
    """What an older router let a manifest name is read, exported, and dropped on the way."""
    async with scripted_upstream() as upstream, live_router(tmp_path, cluster(upstream.url)) as router:
        with router.store.database.writing() as connection:
            wished = '["X-LLM-D-Inference-Objective", "Prefer", "x-session-id", "x-prefiller-host-port"]'
            connection.exec_driver_sql(f"UPDATE backends SET forward_headers = '{wished}'")
            connection.exec_driver_sql("UPDATE registry_state SET revision = revision + 1")
        await router.refresh()
        assert len(router.store.export().backends[0].forward_headers) == 4
        sent = FORGED | {"x-session-id": "s-1"}
        assert (await router.chat(headers=sent)).status_code == 200
        assert steering(upstream.requests[0]) == {"x-session-id": "s-1"}


async def test_cluster_never_sees_fields_that_steer_it(tmp_path: Path) -> None:
    """They are dropped and named to the client; the rest of the body arrives byte for byte."""
    body = b'{ "model":"m" , "priority":-9,"messages":[{"role":"user","content":"Hi"}],"kv_transfer_params":{"a":1} }'
    async with scripted_upstream() as upstream, live_router(tmp_path, cluster(upstream.url)) as router:
        answer = await router.client.post("/v1/chat/completions", content=body)
        assert answer.status_code == 200
        assert answer.headers["x-router-changes"] == "priority dropped, kv_transfer_params dropped"
        assert upstream.requests[0].body == b'{ "model":"up-0","messages":[{"role":"user","content":"Hi"}] }'


async def test_client_never_sees_the_clusters_own_headers(tmp_path: Path) -> None:
    """Neither with an answer, whole or streamed, nor with an error."""
    inner = {
        "x-gateway-destination-endpoint-served": "10.0.0.9:8000",
        "x-llm-d-flow-queue-duration-ms": "12",
        "x-llm-d-request-dropped-reason": "rejected-saturated",
        "x-envoy-upstream-service-time": "7",
        "x-session-token": "cG9kLTE=",
        "x-went-into-resp-headers": "true",
    }
    friendly = say("Hello.")

    async def streamed(request: SeenRequest, reply: ScriptedReply) -> None:
        begin = reply.start_stream
        reply.start_stream = lambda headers=None: begin({**inner, **(headers or {})})  # type: ignore[method-assign]
        await friendly(request, reply)

    async def whole(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json(completion("Hello."), headers=inner)

    scripts: list[tuple[Script, bool]] = [(whole, False), (streamed, True), (fail(429, headers=inner), False)]
    async with scripted_upstream() as upstream, live_router(tmp_path, cluster(upstream.url)) as router:
        for script, stream in scripts:
            upstream.script = script
            answer = await router.chat(stream=stream)
            assert not set(answer.headers) & set(inner), answer.headers
            assert "10.0.0.9" not in answer.text


async def test_forged_headers_in_raw_bytes_do_not_arrive(tmp_path: Path) -> None:
    """Doubled, oddly spelled or hidden behind ours: a client that writes its own bytes gets no further."""
    async with scripted_upstream() as upstream, live_router(tmp_path, cluster(upstream.url)) as router:
        id_, key = await keyed(router, "bronze")
        body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
        head = [
            b"POST /v1/chat/completions HTTP/1.1",
            b"host: r",
            b"content-type: application/json",
            b"X-LLM-d-INFERENCE-objective: gold",
            b"x-llm-d-inference-objective:gold",
            b"x-llm-d-inference-fairness-id: a",
            b"x-llm-d-inference-fairness-id: b",
            b"connection: x-llm-d-inference-objective, close",
            f"authorization: Bearer {key}".encode(),
            f"content-length: {len(body)}".encode(),
        ]
        address = httpx.URL(router.url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert steering(upstream.requests[0]) == {
            "x-llm-d-inference-fairness-id": id_,
            "x-llm-d-inference-objective": "bronze",
        }


def test_callers_have_no_objective_unless_their_key_has() -> None:
    """The default of everybody."""
    assert Caller("anonymous", "anonymous").objective is None
