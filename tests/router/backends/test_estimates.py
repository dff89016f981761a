"""An estimate is a whole answer that nobody was asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence

from router.backends.estimates import EstimateAdapter
from router.types import Candidate, Event
from router.wire.anthropic.parse import parse_count_tokens
from tests.support.nouns import CALLER, make_deployment, make_model


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
