"""Requests go to who can honour them, and what is changed on the way is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.router import live_router
from tests.support.upstream import scripted_upstream

_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
_IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
_ASKS: dict[str, dict[str, Any]] = {
    "json_schema": {"response_format": _SCHEMA},
    "tools": {"tools": [_TOOL]},
    "vision": {"messages": [{"role": "user", "content": _IMAGE}]},
    "logprobs": {"logprobs": True},
}


def _manifest(plain: str, able: str, capability: str) -> str:
    """Return a policy over a model that can chat, which comes first, and one that can do more."""
    return f"""
backends:
  - {{name: plain, dialect: openai, base_url: '{plain}', tier: local}}
  - {{name: able, dialect: openai, base_url: '{able}', tier: external}}
models:
  - id: plain
    capabilities: [chat]
    deployments: [{{backend: plain, price: {{input: 0, output: 0}}}}]
    fallbacks: [able]
  - {{id: able, capabilities: [chat, {capability}], deployments: [{{backend: able, price: {{input: 9, output: 9}}}}]}}
policies:
  - {{name: both, candidates: [plain, able], weights: {{cost: 1}}}}
"""


@pytest.mark.parametrize("model", ["both", "plain"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("capability", _ASKS)
async def test_request_reaches_only_who_can_honour_it(
    tmp_path: Path, capability: str, stream: bool, model: str
) -> None:
    """Never the cheaper one that would ignore or refuse the field; where nobody can, a 400 says what is missing."""
    async with scripted_upstream() as plain, scripted_upstream() as able:
        async with live_router(tmp_path, _manifest(plain.url, able.url, capability)) as router:
            ordinary = await router.chat(model=model, stream=stream)
            special = await router.chat(model=model, stream=stream, **_ASKS[capability])
            nobody = await router.chat(model="plain", headers={"x-router-fallback": "off"}, **_ASKS[capability])
    assert (ordinary.status_code, special.status_code, nobody.status_code) == (200, 200, 400)
    assert ordinary.headers["x-router-backend"] == "plain"
    assert special.headers["x-router-backend"] == "able"
    assert nobody.json()["error"]["code"] == "no_candidate"
    assert capability in nobody.json()["error"]["message"]
    assert len(plain.requests) == 1
    sent = able.requests[0].json
    assert all(sent[name] == value for name, value in _ASKS[capability].items())


async def test_what_a_backend_has_no_words_for_is_said(tmp_path: Path) -> None:
    """A field that the agent's payload cannot carry is dropped aloud, not silently."""
    async with scripted_upstream() as agent:
        agent.script = _agent
        manifest = (
            f"backends: [{{name: a, dialect: local_agent, base_url: 'http://127.0.0.1:{agent.port}', tier: local}}]\n"
            "models: [{id: m, deployments: [{backend: a}]}]\n"
        )
        async with live_router(tmp_path, manifest) as router:
            plain = await router.chat()
            changed = await router.chat(frequency_penalty=0.5, user="somebody")
    assert "x-router-changes" not in plain.headers
    assert "frequency_penalty dropped" in changed.headers["x-router-changes"]


async def _agent(_request: Any, reply: Any) -> None:
    await reply.json({"text": "Hello.", "done": True, "model": "m"})
