"""The Lua script is the Python book, call for call, on a clock that the test sets."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from router.limits.book import LeaseBook
from router.limits.leases import Ask, Grant
from router.limits.script import LEASE, read_reply, script_arguments, script_keys
from tests.support.valkey import ValkeyProcess

PAUSES = (0, 1, 40, 400, 1000, 3000, 25_000, 61_000, 200_000)


@pytest.fixture(scope="module")
def script(valkey: ValkeyProcess) -> Iterator[Any]:
    """The script, registered."""
    with Redis.from_url(valkey.url) as client:
        yield client.register_script(LEASE)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 60_000]), st.integers(1, 30))
def test_script_does_what_the_book_does(script: Any, seed: int, window: int, limit: int) -> None:
    """Grant for grant the same, for holders that tell the truth and for those that do not."""
    chance, book = random.Random(seed), LeaseBook()
    name, now = secrets.token_hex(8), 1_800_000_000_000
    last: dict[str, Grant] = {}
    totals = {"a": 0, "b": 0, "c": 0}
    for _ in range(80):
        now += chance.choice(PAUSES[: chance.randint(1, len(PAUSES))])
        holder = chance.choice("abc")
        known = last.get(holder)
        totals[holder] += chance.choice((0, 0, 1, 5))
        refunds = () if known is None else ((known.step, chance.randint(1, 9)), (known.step - 61, 3))
        ask = Ask(
            name,
            limit,
            window,
            total=totals[holder],
            acked=max(0, totals[holder] - chance.choice((0, 0, 1, 4))),
            recent=chance.randint(0, 9),
            keep=chance.randint(0, 6),
            must=0 if window else chance.randint(0, 4),
            want=chance.randint(0, 15),
            need=chance.randint(0, 5),
            refunds=refunds if chance.random() < 0.3 else (),
            era=0 if known is None or chance.random() < 0.05 else known.era,
        )
        there = read_reply(script(script_keys([ask]), script_arguments(holder, [ask], 5.0, now)))
        here = book.lease(holder, ask, now, 5000)
        assert there == [here]
        last[holder] = here
