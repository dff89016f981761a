"""Large bodies: what is within the limit passes, memory stays bounded, what is beyond it is refused cleanly."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path

import httpx
import pytest

from scripts.soak.measure import rss_mib
from tests.support.process import router_process
from tests.support.router import live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, completion, scripted_upstream

_MIB = 1024 * 1024
_PATH = "/v1/chat/completions"


def _vision(size: int) -> bytes:
    """Return a chat request with an image of about so many bytes in it."""
    image = "data:image/png;base64," + base64.b64encode(os.urandom(size * 3 // 4)).decode()
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": image}}]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()


async def test_vision_request_of_20_mb_arrives_as_it_was_sent(tmp_path: Path) -> None:
    """Every byte of it, with nothing but the model's name changed."""
    body = _vision(20 * _MIB)
    async with scripted_upstream() as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        answer = await router.client.post(_PATH, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        assert upstream.requests[0].body == body.replace(b'"model": "m"', b'"model": "up-0"')


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_body_beyond_the_limit_is_a_clean_413(tmp_path: Path, chunked: bool) -> None:
    """Told in the caller's format, with the limit in it; nothing reaches a backend, and the router goes on."""
    body = _vision(3 * _MIB)

    async def pieces() -> object:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    async with scripted_upstream() as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url), body_limit=2 * _MIB) as router:
            sent = pieces() if chunked else body
            answer = await router.client.post(_PATH, content=sent)  # type: ignore[arg-type]
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "request_too_large"
            assert str(2 * _MIB) in answer.json()["error"]["message"]
            assert upstream.requests == []
            assert (await router.chat()).status_code == 200


async def test_large_bodies_leave_no_memory_behind(tmp_path: Path) -> None:
    """Twenty requests of 20 MB, four at a time, take what four of them take, and later ones no more than earlier."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json(completion(str(len(request.body))))

    body, registry = _vision(20 * _MIB), tmp_path / "models.yaml"
    async with scripted_upstream(script) as upstream:
        registry.write_text(manifest_for(upstream.url))
        with router_process(tmp_path, {"ROUTER_REGISTRY_FILE": str(registry)}) as router:
            peaks = []
            async with httpx.AsyncClient(base_url=router.url, timeout=60, trust_env=False) as client:
                for _ in range(5):
                    sent = [client.post(_PATH, content=body) for _ in range(4)]
                    assert {answer.status_code for answer in await asyncio.gather(*sent)} == {200}
                    upstream.requests.clear()
                    peaks.append(rss_mib(router.process.pid))
    # A body is gathered once and sent on without a copy; what was freed may be kept for the next one.
    assert max(peaks) < 100 + 4 * 3 * 20
    assert max(peaks[2:]) < 1.25 * max(peaks[:2]) + 20
