"""What limits cost: a reservation on the request path, and a renewal in the background.

`python -m scripts.bench.limits`, with `--redis URL` also a renewal through Redis. Microseconds of CPU time of this
process, the best of five runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence

from router.limits.leases import LeaseStore
from router.limits.limiter import Limiter
from router.state.memory import MemoryStore
from router.state.redis import RedisStore
from router.types import Backend, Deployment, Limits
from scripts.bench.ledger import each

__all__ = ["main", "measure"]

CALLS = 200_000
MANY = 1_000_000_000
BACKEND = Backend("scripted", "openai", "http://127.0.0.1:9100/v1", "external")
CASES = {
    "no limits": Limits(),
    "rpm": Limits(rpm=MANY),
    "max_concurrency": Limits(max_concurrency=MANY),
    "max_concurrency, rpm, tpm": Limits(MANY, MANY, MANY),
}


def deployment(name: str, limits: Limits) -> Deployment:
    """Return a deployment with limits."""
    return Deployment(f"{name}@scripted", name, BACKEND, name, limits=limits)


def request(limiter: Limiter, place: Deployment) -> Callable[[], object]:
    """Return what one request does: reserve, release, settle."""

    def work() -> None:
        reservation = limiter.reserve(place, 500)
        assert reservation is not None
        reservation.release()
        reservation.settle(400)

    return work


def refused(limiter: Limiter) -> Callable[[], object]:
    """Return what a request does that finds no room."""
    place = deployment("full", Limits(rpm=1))
    limiter.reserve(place, 1)
    return lambda: limiter.reserve(place, 1)


async def renewal(store: LeaseStore, deployments: int, rounds: int = 200) -> float:
    """Return the microseconds of one renewal of so many deployments with all three limits."""
    limiter = Limiter(shared=True)
    limiter.learn(deployment(f"m{number}", Limits(64, 600, 200_000)) for number in range(deployments))
    quotas = limiter.all()
    best = float("inf")
    for _ in range(5):
        begun = time.process_time()
        for _ in range(rounds):
            asks = limiter.ask(quotas)
            grants = await store.lease("bench", asks, 5)
            assert grants is not None
            limiter.take(quotas, asks, grants, time.monotonic() + 5)
        best = min(best, time.process_time() - begun)
    return best / rounds * 1e6


async def measure(calls: int = CALLS, redis: str | None = None) -> dict[str, float]:
    """Return microseconds by what was done."""
    figures = {"nothing (the loop itself)": each(lambda: None, calls)}
    for name, limits in CASES.items():
        figures[f"request: {name}"] = each(request(Limiter(), deployment("m", limits)), calls)
    figures["request: refused"] = each(refused(Limiter()), calls)
    rounds = max(1, calls // 1000)
    figures["renewal of 1 deployment, in memory"] = await renewal(MemoryStore(), 1, rounds)
    figures["renewal of 50 deployments, in memory"] = await renewal(MemoryStore(), 50, rounds)
    if redis is not None:
        store = RedisStore(redis, budget=10.0)
        if not await store.connect():
            raise SystemExit(f"limits: no Redis answers at {redis}")
        figures["renewal of 1 deployment, in Redis"] = await renewal(store, 1, rounds)
        figures["renewal of 50 deployments, in Redis"] = await renewal(store, 50, rounds)
        await store.close()
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.limits", description=__doc__)
    parser.add_argument("--redis", help="a Redis to renew leases in as well")
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    figures = asyncio.run(measure(chosen.calls, chosen.redis))
    if chosen.json:
        print(json.dumps(figures))
    else:
        for name, microseconds in figures.items():
            print(f"{name:40} {microseconds:9.2f} µs")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
