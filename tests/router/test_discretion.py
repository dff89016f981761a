"""discretion: no answer holds a key of the router's, or the address of a backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.router import live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, chunk, fail, scripted_upstream

KEY = "canary-0123456789-key"


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500])
@pytest.mark.parametrize("stream", [True, False])
async def test_error_of_a_backend_is_told_without_key_and_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, stream: bool
) -> None:
    """The backend's words reach the caller, but for what only the router may know."""
    monkeypatch.setenv("CANARY_KEY", KEY)
    async with scripted_upstream() as upstream:
        said: dict[str, Any] = {"message": f"no {KEY} at {upstream.url}/chat, 127.0.0.1:{upstream.port}!", "param": KEY}
        upstream.script = fail(status, {"error": {**said, "type": KEY, "code": KEY}})
        async with live_router(tmp_path, manifest_for(upstream.url, api_key_env="CANARY_KEY")) as router:
            answer = await router.chat(stream=stream)
        assert upstream.requests[0].headers["authorization"] == f"Bearer {KEY}"
    told = answer.text + str(answer.headers)
    assert KEY not in told
    assert str(upstream.port) not in told
    if status in (400, 404, 422):
        assert answer.json()["error"]["message"] == "no [redacted] at [b0]/chat, [b0]!"


async def test_error_in_mid_stream_is_told_without_key_and_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is the event that ends a stream."""
    monkeypatch.setenv("CANARY_KEY", KEY)

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event(chunk({"content": "a"}))
        await reply.event({"error": {"message": f"bad {KEY}", "type": "server_error", "code": None}})
        await reply.end_stream()

    async with scripted_upstream(script) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url, api_key_env="CANARY_KEY")) as router:
            answer = await router.chat(stream=True)
    assert KEY not in answer.text
    assert "bad [redacted]" in answer.text


async def test_address_is_not_told_without_its_port_either(tmp_path: Path) -> None:
    """Operating systems and proxies name host and port apart."""
    async with scripted_upstream() as upstream:
        upstream.script = fail(400, {"error": {"message": f"connect to 127.0.0.1 port {upstream.port} failed"}})
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            answer = await router.chat()
    assert answer.json()["error"]["message"] == f"connect to [b0] port {upstream.port} failed"


async def test_details_and_headers_of_an_error_are_told_without_key_and_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Anthropic's clients get besides a message, and the backend's headers, are cleaned like its words."""
    monkeypatch.setenv("CANARY_KEY", KEY)
    async with scripted_upstream() as upstream:
        details = {"seen": [f"x-api-key: {KEY}", {KEY: f"{upstream.url}/messages"}], "count": 3}
        said = {"type": "invalid_request_error", "message": "no", "details": details}
        headers = {"x-ratelimit-key": KEY, "x-ratelimit-place": upstream.url, "x-ratelimit-limit-requests": "7"}
        upstream.script = fail(400, {"type": "error", "error": said}, headers)
        manifest = manifest_for(upstream.url, api_key_env="CANARY_KEY").replace("dialect: openai", "dialect: anthropic")
        body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
        async with live_router(tmp_path, manifest) as router:
            answer = await router.client.post("/v1/messages", json=body)
    told = answer.text + str(answer.headers)
    assert KEY not in told
    assert str(upstream.port) not in told
    assert answer.json()["error"]["details"] == {
        "seen": ["x-api-key: [redacted]", {"[redacted]": "[b0]/messages"}],
        "count": 3,
    }
    assert answer.headers["x-ratelimit-limit-requests"] == "7"


@pytest.mark.parametrize(
    "place",
    [
        "10.42.0.7:8000",
        "http://192.168.1.9:8200",
        "172.16.0.1",
        "llm-d-decode.llm-d.svc.cluster.local:8000",
        "llm-d-epp.llm-d.svc",
        "10-42-0-7.llm-d.pod.cluster.local",
    ],
)
async def test_address_within_a_cluster_is_not_told(tmp_path: Path, place: str) -> None:
    """A cluster's parts name each other in their errors; what only looks like an address stays."""
    said = f"prefill at {place}/x failed, 10.1.2.3.4 and 172.32.0.1 and my.svc did not."
    async with scripted_upstream(fail(400, {"error": {"message": said}})) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            answer = await router.chat()
    told = answer.json()["error"]["message"]
    assert told == "prefill at [internal]/x failed, 10.1.2.3.4 and 172.32.0.1 and my.svc did not."
