"""Asking through httpx: the same words for what comes back, and for what does not."""

from __future__ import annotations

import json

import pytest

from router.registry.asking import Refused
from router.registry.asking_through import HttpxAsker
from tests.support.process import free_port
from tests.support.upstream import ScriptedReply, SeenRequest, scripted_upstream


async def test_body_of_a_successful_answer_comes_back() -> None:
    """Headers go along, the body comes back."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json({"data": []})

    async with scripted_upstream(script) as upstream:
        assert json.loads(await HttpxAsker().get(f"{upstream.url}/models", {"x-key": "k"})) == {"data": []}
        assert upstream.requests[0].headers["x-key"] == "k"


@pytest.mark.parametrize("status", [302, 401, 500])
async def test_refusal_tells_its_status(status: int) -> None:
    """Whatever is no success is a refusal; redirects are not followed."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json({}, status, {"location": "/elsewhere"})

    async with scripted_upstream(script) as upstream:
        with pytest.raises(Refused) as caught:
            await HttpxAsker().get(f"{upstream.url}/models", {})
        assert caught.value.status == status
        assert len(upstream.requests) == 1


async def test_nobody_there_is_an_os_error() -> None:
    """A server that cannot be reached is told as by plain sockets."""
    with pytest.raises(OSError, match=r"."):
        await HttpxAsker().get(f"http://127.0.0.1:{free_port()}/", {})
    with pytest.raises(ValueError, match=r"."):
        await HttpxAsker().get("http://[::1/", {})
