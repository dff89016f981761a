"""What a routing decision costs: `python -m scripts.bench.routing [deployments …]`.

For each number of deployments a window of requests is in flight all the time: each new request is
ranked, its first candidate taken and told to the health board, and the oldest request answers and
leaves. Beside it stands the reference, `decide()`, which looks at every deployment.
"""

from __future__ import annotations

import gc
import sys
import time
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from random import Random

from router.health import HealthBoard
from router.registry.snapshot import Catalog
from router.routing.decide import decide
from router.routing.features import extract_features
from router.routing.plan import Planner
from router.routing.weights import DEFAULT_WEIGHTS
from router.types import Backend, Caller, Constraints, Deployment, Features, InferenceRequest, Model, Price, Wishes

SIZES = (10, 100, 1_000, 10_000)
WINDOW = 64
"""Requests in flight."""
ROUNDS = 40
"""The quickest of them counts: what is slower was disturbed."""


def fleet(size: int, odd: bool) -> Model:
    """Return a model with so many deployments, of two prices; odd ones are not in proportion."""
    prices = [Price(Decimal(1), None, Decimal(2)), Price(Decimal(3), None, Decimal(15 if odd else 6))]
    backends = [Backend(f"b{index}", "openai", "http://127.0.0.1", "external") for index in range(size)]
    return Model("m", tuple(Deployment(f"m@b{i}", "m", b, "m", prices[i % 2]) for i, b in enumerate(backends)))


class Load:
    """Requests against a fleet: each begins where it is ranked first, answers and leaves.

    Args:
        size: How many deployments there are.
        features: What each request in turn looks like.
    """

    def __init__(self, size: int, features: list[Features]) -> None:
        chance = Random(size)  # noqa: S311 - it is to be the same each time
        self.model = fleet(size, odd=len({feature.prompt_tokens for feature in features}) > 1)
        self.catalog = Catalog(models={"m": self.model}, names={"m": self.model})
        self.board = HealthBoard()
        self.planner = Planner(self.board)
        self.features = features
        self.seeds = [chance.getrandbits(32) for _ in range(1024)]
        self.speeds = {deployment.id: chance.uniform(20, 900) for deployment in self.model.deployments}
        self.noise = [chance.uniform(0.8, 1.25) for _ in range(1024)]
        self.flying: deque[tuple[Deployment, int]] = deque()
        for _ in range(WINDOW):
            self.begin(self.model.deployments[chance.randrange(size)])

    def begin(self, deployment: Deployment) -> None:
        """Send a request out."""
        self.flying.append((deployment, self.board.begin(deployment)))

    def leave(self, number: int) -> None:
        """Let the oldest request answer and leave."""
        deployment, ticket = self.flying.popleft()
        self.board.succeed(deployment, self.speeds[deployment.id] * self.noise[number & 1023])
        self.board.end(deployment, ticket)

    def plan(self, number: int) -> None:
        """Route a request with a plan."""
        kinds = self.features
        ranking = self.planner.rank(
            self.catalog, self.model, DEFAULT_WEIGHTS, kinds[number % len(kinds)], self.seeds[number & 1023]
        )
        for candidate in ranking:
            self.begin(candidate.deployment)
            break
        self.leave(number)

    def reference(self, number: int) -> None:
        """Route a request with decide()."""
        decision = decide(
            id="dec",
            asked="m",
            policy=None,
            models=(self.model,),
            fallbacks=(),
            features=self.features[number % len(self.features)],
            health=self.board.snapshot(),
            weights=DEFAULT_WEIGHTS,
            seed=self.seeds[number & 1023],
            catalog_version=1,
        )
        for candidate in decision.ranking:
            self.begin(candidate.deployment)
            break
        self.leave(number)

    def nothing(self, number: int) -> None:
        """Do all that `plan` does but for the decision."""
        kinds = self.features
        ranking = self.pick(self.catalog, self.model, kinds[number % len(kinds)], self.seeds[number & 1023])
        for deployment in ranking:
            self.begin(deployment)
            break
        self.leave(number)

    def pick(self, _catalog: Catalog, model: Model, _features: Features, seed: int) -> list[Deployment]:
        """Return a deployment without a thought."""
        return [model.deployments[seed % len(model.deployments)]]


def measure(step: Callable[[int], None], calls: int) -> float:
    """Return microseconds a call, at best."""
    best = float("inf")
    for _ in range(ROUNDS):
        gc.collect()
        begun = time.perf_counter()
        for number in range(calls):
            step(number)
        best = min(best, time.perf_counter() - begun)
    return best / calls * 1e6


def kind(**fields: object) -> Features:
    """Return what routing sees of a request."""
    given: dict[str, object] = {"prompt_tokens": 400, "prompt_tokens_least": 100, "max_tokens": None, **fields}
    return Features(needs=frozenset({"chat"}), stream=True, **given)  # type: ignore[arg-type]


def main(sizes: list[int]) -> None:
    """Print a line for each size."""
    kinds = {
        "plain": [kind()],
        "mixed": [kind(prompt_tokens=64 * 2**power) for power in range(8)],
        "session": [kind(session=f"s{number}") for number in range(512)],
    }
    print("microseconds a decision, with what it tells the health board; in brackets without that")
    heads = "".join(f"{name:>16}" for name in (*kinds, "first plan", "decide()"))
    print(f"{'deployments':>11}{heads}")
    for size in sizes:
        quiet = measure(Load(size, [kind()]).nothing, 2_000)
        cells = []
        for features in kinds.values():
            load = Load(size, features)
            whole = measure(load.plan, 2_000)
            cells.append(f"{whole:.2f} ({whole - quiet:.2f})")
        load = Load(size, kinds["plain"])
        begun = time.perf_counter()
        load.plan(0)
        cells.append(f"{(time.perf_counter() - begun) * 1e6:.0f}")
        cells.append(f"{measure(Load(size, kinds['plain']).reference, max(1, 400 // size)):.0f}")
        print(f"{size:>11}" + "".join(f"{cell:>16}" for cell in cells))
    request = InferenceRequest("req", "chat", "m", True, b"", {}, Caller("key", "bench"), wishes=Wishes())
    constraints = Constraints()

    def extract(_: int) -> None:
        extract_features(request, constraints)

    print(f"extract_features: {measure(extract, 5_000):.2f}")


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or list(SIZES))
