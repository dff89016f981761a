"""A course's own verdicts, of what no backend has been asked."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from router.dispatch import Dispatcher
from router.health import HealthBoard
from router.trail import Trail
from router.types import Candidate
from shared.errors import ServiceError
from tests.router.test_dispatch import ScriptedAdapter, decision_for, request_for


@dataclass
class Speechless(ScriptedAdapter):
    """An adapter that speaks no endpoint."""

    asked: list[str] = field(default_factory=list)

    def speaks(self, endpoint: str, candidate: Candidate) -> bool:
        """Speak nothing."""
        self.asked.append(candidate.deployment.id)
        return False


async def test_course_tries_nothing_twice_that_the_router_cannot_tell() -> None:
    """What neither an adapter nor a bridge carries fails at once, everywhere, and blames no backend."""
    adapter, health = Speechless(), HealthBoard()
    for adapters in ({"openai": adapter}, {}):
        dispatcher = Dispatcher(adapters, health, attempts=9)
        with pytest.raises(ServiceError):
            await dispatcher.send(request_for(), decision_for(["answers", "answers"]), Trail(time.perf_counter()))
    assert adapter.asked == ["m0@b0", "m1@b1"]
    assert adapter.tried == []
    assert dict(health.snapshot()) == {}
