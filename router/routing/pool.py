"""A pool: candidates in rows by score, which follows what happens to them one change at a time.

What a registry snapshot says of the candidates is worked out once. What their health says moves a
candidate from one row to another, at the cost of that candidate alone, so that the best ones can be
picked at any time without a look at the others.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from router.interfaces import HealthFeed, HealthState, TrackedHealth
from router.routing.estimates import estimate_cost
from router.routing.lottery import Chance
from router.routing.scorers.affinity import Ring
from router.routing.scorers.latency import HALF_AT_MS, LEAST_WEIGHT, UNTRIED_MS
from router.routing.weights import LEVELS
from router.types import Candidate, DeploymentHealth, Features, Price

__all__ = ["Pool"]

_UNTRIED = DeploymentHealth()
_STEPS = LEVELS + 1
_SCALE = float(LEVELS)
_TRIES = 8
"""Draws from a row before it is looked at as a whole."""
_HOMES = 4
"""Homes of a session that are remembered: the first one that is there has it."""
_SESSIONS = 4096
_NOWHERE = -1

Permit = Callable[[int], bool]


class _Slot:
    """One candidate's place in a pool."""

    __slots__ = (
        "base",
        "candidate",
        "context",
        "limit",
        "number",
        "origin",
        "price",
        "row",
        "state",
        "still",
        "weight",
    )

    def __init__(self, number: int, candidate: Candidate, base: float, origin: int, price: int) -> None:
        deployment = candidate.deployment
        length, most = candidate.model.context_length, deployment.limits.max_concurrency
        self.number = number
        self.candidate = candidate
        self.base = base
        """The part of its score that does not change."""
        self.origin = origin
        """Its row at a score of 0."""
        self.still = origin
        """Its row where only the static part of its score counts."""
        self.price = price
        """Equal for equal prices."""
        self.weight = max(deployment.weight, LEAST_WEIGHT)
        self.context: float = math.inf if length is None else length
        # A stale agent is always full.
        self.limit = -1 if deployment.backend.stale else sys.maxsize if most is None else most
        self.state: HealthState = _UNTRIED
        self.row = _NOWHERE
        """Where it is, nowhere while it is away or full."""


class Pool:
    """Candidates of equal standing, kept in order of what they would be picked in.

    A row holds the candidates of one priority, one level of score and one lane, sorted by number, so
    that a row depends on what is, not on how it came about. Lanes part the weights by powers of
    two, which lets a draw from one be accepted at least half the time. The rows that are not empty are
    bits of one number, the best one is its highest.

    Args:
        candidates: Those that pass the static filters, each deployment once.
        bases: The static part of each one's score.
        shares: What part of a score each scorer counts.
    """

    def __init__(self, candidates: Sequence[Candidate], bases: Sequence[float], shares: Mapping[str, float]) -> None:
        self.candidates = tuple(candidates)
        self.bases = tuple(bases)
        self.size = len(self.candidates)
        self.latency = shares.get("latency", 0.0)
        self.affinity = shares.get("affinity", 0.0)
        self._mask = 0
        self._slots = self._seat()
        self._index = {slot.candidate.deployment.id: slot for slot in self._slots}
        for slot in self._slots:
            slot.still = self._row(slot)
            if slot.limit > 0:
                self._move(slot, slot.still)
        self._context = min((slot.context for slot in self._slots), default=math.inf)
        self.revision = -1
        """What of the health feed the pool has seen."""
        self._ring: Ring | None = None
        self._homes: dict[str, list[int]] = {}
        """Session to the numbers of its first few homes; the oldest ones are forgotten."""

    def _seat(self) -> list[_Slot]:
        """Return the slots; sets up the rows, all empty."""
        weights = [max(candidate.deployment.weight, LEAST_WEIGHT) for candidate in self.candidates]
        classes = sorted({math.frexp(weight)[1] for weight in weights}) or [0]
        lanes = {exponent: lane for lane, exponent in enumerate(classes)}
        # A lower priority comes first, so it has the higher rows.
        order = sorted({candidate.deployment.priority for candidate in self.candidates}, reverse=True)
        floors = {priority: tier * _STEPS * len(lanes) for tier, priority in enumerate(order)}
        prices: dict[Price, int] = {}
        self._lanes = len(lanes)
        self._bounds = [0.0] * len(lanes)
        slots = []
        for number, candidate in enumerate(self.candidates):
            lane, priority = lanes[math.frexp(weights[number])[1]], candidate.deployment.priority
            price = prices.setdefault(candidate.deployment.price, len(prices))
            slots.append(_Slot(number, candidate, self.bases[number], floors[priority] + lane, price))
            self._bounds[lane] = max(self._bounds[lane], weights[number])
        self._even = len(set(weights)) <= 1
        self._rows: list[list[int]] = [[] for _ in range(len(order) * _STEPS * len(lanes))]
        self._bits = [1 << row for row in range(len(self._rows))]
        return slots

    def same(self, other: Pool) -> bool:
        """Return whether another pool is made from the same parts."""
        mine = (self.latency, self.affinity, self.bases, self.candidates)
        return mine == (other.latency, other.affinity, other.bases, other.candidates)

    # --- following ----------------------------------------------------------------------------

    def follow(self, revision: int, changed: Iterable[TrackedHealth]) -> None:
        """Take in what changed up to a revision of the health feed."""
        self.revision = revision
        find, latency, lanes = self._index.get, self.latency, self._lanes
        for state in changed:
            slot = find(state.id)
            if slot is None:
                continue
            slot.state = state
            if not state.available or state.in_flight >= slot.limit:
                row = _NOWHERE
            elif latency:
                # The arithmetic of `_row`, written out: most of what routing costs is spent here.
                first = state.first_token_ms
                wait = (UNTRIED_MS if first is None else first) * (1.0 + state.in_flight / slot.weight)
                score = slot.base + latency * ((1.0 - state.failure_rate) / (1.0 + wait / HALF_AT_MS))
                row = slot.origin + int(score * _SCALE + 0.5) * lanes
            else:
                row = slot.still
            if row != slot.row:
                self._move(slot, row)

    def refresh(self, revision: int, feed: HealthFeed) -> None:
        """Look at everybody anew."""
        self.follow(revision, (state for name in self._index if (state := feed.state(name)) is not None))

    def _row(self, slot: _Slot, bonus: float = 0.0) -> int:
        """Return the row of an available candidate, as the scorers and `level_of` have it."""
        score = slot.base
        if self.latency:
            state = slot.state
            first = state.first_token_ms
            wait = (UNTRIED_MS if first is None else first) * (1.0 + state.in_flight / slot.weight)
            score += self.latency * ((1.0 - state.failure_rate) / (1.0 + wait / HALF_AT_MS))
        return slot.origin + int((score + bonus) * _SCALE + 0.5) * self._lanes

    def _move(self, slot: _Slot, new: int) -> None:
        number, old = slot.number, slot.row
        slot.row = new
        if old >= 0:
            row = self._rows[old]
            del row[bisect_left(row, number)]
            if not row:
                self._mask ^= self._bits[old]
        if new >= 0:
            row = self._rows[new]
            if not row:
                self._mask |= self._bits[new]
            insort(row, number)

    # --- picking ------------------------------------------------------------------------------

    def first(self, features: Features, seed: int) -> int:
        """Return the number of the candidate to try first, or -1 where there is none."""
        if not self._mask:
            return _NOWHERE
        if (
            self._even
            and (features.session is None or not self.affinity)
            and features.max_cost_usd is None
            and features.first_token_ms is None
            and features.prompt_tokens_least < self._context
        ):
            row = self._rows[self._mask.bit_length() - 1]
            return row[seed % len(row)]
        numbers, _ = self.best(features, (), Chance(seed), None)
        return numbers[0] if numbers else _NOWHERE

    def best(
        self, features: Features, taken: Collection[int], chance: Chance, below: int | None
    ) -> tuple[list[int], int | None]:
        """Return the numbers of the best candidates that the request may have, in the order to try them.

        Args:
            features: What the request needs.
            taken: Numbers to leave out.
            chance: Draws among equals.
            below: Only steps below this one are looked at; None looks at all.

        Returns:
            One or more numbers, none where nobody is left; and the step that they are all of, where
            they are all that is left of it.
        """
        permits = self._permits(features)
        home = self._home(features, permits)
        if home is None or home.number in taken:
            return self._search(permits, taken, chance, below)
        # The session's home has a bonus for this pick only.
        row, back = self._row(home, self.affinity), home.row
        if below is None and row // self._lanes > (self._mask.bit_length() - 1) // self._lanes:
            return [home.number], None
        self._move(home, row)
        try:
            return self._search(permits, taken, chance, below)
        finally:
            self._move(home, back)

    def _search(
        self, permits: Permit | None, taken: Collection[int], chance: Chance, below: int | None
    ) -> tuple[list[int], int | None]:
        lanes = self._lanes
        mask = self._mask if below is None else self._mask & ((1 << below * lanes) - 1)
        while mask:
            step = (mask.bit_length() - 1) // lanes
            for _ in range(_TRIES):
                number = self._draw(step, chance)
                if number >= 0 and number not in taken and (permits is None or permits(number)):
                    return [number], None
            rows = self._rows[step * lanes : (step + 1) * lanes]
            left = [n for row in rows for n in row if n not in taken and (permits is None or permits(n))]
            if left:
                return chance.shuffled(left, lambda n: self._slots[n].weight), step
            mask &= (1 << step * lanes) - 1
        return [], None

    def _draw(self, step: int, chance: Chance) -> int:
        """Return one of a step's candidates, each as often as its weight says, or -1 to be asked again."""
        lane = 0
        if self._lanes > 1:
            rows = self._rows[step * self._lanes : (step + 1) * self._lanes]
            sizes = [len(row) * bound for row, bound in zip(rows, self._bounds, strict=True)]
            point = chance.bits() * 2.0**-64 * math.fsum(sizes)
            while point >= sizes[lane] and lane < self._lanes - 1:
                point -= sizes[lane]
                lane += 1
        row = self._rows[step * self._lanes + lane]
        if not row:  # where rounding led past the last
            return _NOWHERE
        bits = chance.bits()
        number = row[(bits & 0xFFFFFFFF) * len(row) >> 32]
        if self._even or (bits >> 32) * 2.0**-32 * self._bounds[lane] < self._slots[number].weight:
            return number
        return _NOWHERE

    def _permits(self, features: Features) -> Permit | None:
        """Return what tells whom this very request may have; None where it may have anybody."""
        least, most, limit = features.prompt_tokens_least, features.max_cost_usd, features.first_token_ms
        if most is None and limit is None and least < self._context:
            return None
        slots = self._slots
        affordable: dict[int, bool] = {}

        def permits(number: int) -> bool:
            slot = slots[number]
            if least >= slot.context:
                return False
            if most is not None:
                fits = affordable.get(slot.price)
                if fits is None:
                    expected = estimate_cost(features, slot.candidate.deployment)
                    fits = affordable[slot.price] = expected is not None and expected <= most
                if not fits:
                    return False
            first = slot.state.first_token_ms
            return limit is None or first is None or first <= limit

        return permits

    def _home(self, features: Features, permits: Permit | None) -> _Slot | None:
        """Return the candidate that the request's session belongs to: the nearest that it may have."""
        session = features.session
        if session is None or not self.affinity or not self._mask:
            return None
        homes = self._homes.get(session)
        if homes is None:
            if self._ring is None:
                self._ring = Ring([candidate.deployment.id for candidate in self.candidates])
            if len(self._homes) >= _SESSIONS:
                del self._homes[next(iter(self._homes))]
            homes = self._homes[session] = self._ring.homes(session, _HOMES)
        count = _HOMES
        while True:
            for number in homes:
                slot = self._slots[number]
                if slot.row >= 0 and (permits is None or permits(number)):
                    return slot
            if count >= len(self._slots) or self._ring is None:
                return None
            count *= 8
            homes = self._ring.homes(session, count)
