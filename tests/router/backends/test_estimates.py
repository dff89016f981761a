"""An estimate is a whole answer that nobody was asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from router.backends.estimates import EstimateAdapter
from router.types import Candidate, Event
from router.wire.anthropic.parse import parse_count_tokens
from tests.support.nouns import CALLER, make_deployment, make_model
from tests.support.router import live_router, manifest_for
from tests.support.upstream import fail, scripted_upstream


async def test_estimate_is_told_once() -> None:
    """The reply is one completion, by either way of reading it, and then complete."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "four" * 4}]}).encode()
    request = parse_count_tokens(body, "req_1", CALLER, {})
    deployment = make_deployment()
    adapter = EstimateAdapter()
    candidate = Candidate(make_model("m", deployment), deployment)
    assert adapter.speaks("count_tokens", candidate)
    assert not adapter.speaks("chat", candidate)
    reply = await adapter.send(request, deployment, None, 0.0)
    (answer,) = await reply.more(0.0)
    assert await reply.more(0.0) == ()
    again = await adapter.send(request, deployment, None, 0.0)
    seen: list[Sequence[Event]] = []

    def take(events: Sequence[Event]) -> bool:
        seen.append(events)
        return True

    assert await again.pump(take, 1.0, 1.0)
    assert seen == [(answer,)]
    assert list(reply.notes) == [(b"x-router-changes", b"input_tokens estimated")]
    await reply.close()


async def test_estimate_says_nothing_of_the_backend(tmp_path: Path) -> None:
    """Nobody was asked: a breaker that is to be probed stays so, and no limit is touched."""
    async with scripted_upstream(fail(500)) as upstream:
        limited = manifest_for(upstream.url, breaker="{failures: 1, cooldown: 0.05}").replace(
            "priority: 0", "priority: 0, limits: {rpm: 2}"
        )
        async with live_router(tmp_path, limited, attempts=1) as router:
            assert (await router.chat()).status_code == 500 + 2
            await asyncio.sleep(0.1)
            asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
            for _ in range(4):
                answer = await router.client.post("/v1/messages/count_tokens", json=asked)
                assert answer.status_code == 200, answer.text
                assert answer.headers["x-router-changes"] == "input_tokens estimated"
            (state,) = router.services.health.snapshot().values()
            assert state.failure_rate > 0.15
        assert len(upstream.requests) == 1
