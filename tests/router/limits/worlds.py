"""Several processes, one store, a clock that only moves when told, and a record of what was started."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, takewhile

from router.limits.book import LeaseBook
from router.limits.leases import Ask, Grant
from router.limits.limiter import Limiter, Quota, Reservation
from router.types import Backend, Deployment, Limits

TTL = 5.0
BACKEND = Backend("b", "openai", "http://127.0.0.1:1", "external")


def limited(rpm: int | None = None, tpm: int | None = None, slots: int | None = None) -> Deployment:
    """Return a deployment with limits."""
    return Deployment("m@b", "m", BACKEND, "m", limits=Limits(slots, rpm, tpm))


@dataclass
class Started:
    """A request that was let through."""

    at: float
    reservation: Reservation
    reserved: int
    used: int
    open: bool = True


@dataclass
class Process:
    """One router process; its clock has an origin of its own."""

    name: str
    limiter: Limiter
    origin: float
    under_way: tuple[list[Quota], list[Ask], float] | None = None
    grants: Sequence[Grant] | None = None
    roused: bool = True
    open: deque[Started] = field(default_factory=deque)


class World:
    """Processes that lease from one book.

    Args:
        deployment: What all of them send to.
        processes: How many there are.
        shared: Whether there is a store.
    """

    def __init__(self, deployment: Deployment, processes: int, *, shared: bool = True) -> None:
        self.now = 1000.0
        self.deployment = deployment
        self.book = LeaseBook()
        self.shared = shared
        self.born = 0
        self.started: list[Started] = []
        self.refused = 0
        self.processes = [self._process(number, processes) for number in range(processes)]

    def _process(self, number: int, of: int) -> Process:
        self.born += 1
        origin = 17.3 * self.born

        def share(limit: int) -> int:
            return limit // of + (number < limit % of)

        def clock() -> float:
            return self.now - origin

        process = Process(f"p{self.born}", Limiter(share, shared=self.shared, clock=clock), origin)
        process.limiter.rouse = lambda: setattr(process, "roused", True)
        process.limiter.learn([self.deployment])
        return process

    def kill(self, number: int) -> None:
        """End a process without a word, and start another in its place."""
        self.processes[number] = self._process(number, len(self.processes))

    def request(self, number: int, tokens: int = 1, used: int | None = None) -> bool:
        """Let a process try to start a request; return whether it might."""
        process = self.processes[number]
        reservation = process.limiter.reserve(self.deployment, tokens)
        if reservation is None:
            self.refused += 1
            return False
        tpm = self.deployment.limits.tpm
        reserved = tokens if tpm is None else min(tokens, tpm)
        request = Started(self.now, reservation, reserved, reserved if used is None else min(used, reserved))
        process.open.append(request)
        self.started.append(request)
        return True

    def end(self, number: int) -> None:
        """End a process's oldest open request."""
        if self.processes[number].open:
            request = self.processes[number].open.popleft()
            request.open = False
            request.reservation.release()
            request.reservation.settle(request.used)

    # --- an exchange with the store, in its parts ---------------------------------------------------

    def send(self, number: int) -> None:
        """A report leaves the process."""
        process = self.processes[number]
        if process.under_way is None and (due := list(chain(*process.limiter.due()))):
            process.roused = False
            process.under_way = (due, process.limiter.ask(due), self.now - process.origin + TTL)

    def arrive(self, number: int) -> None:
        """It comes to the store, which answers."""
        process = self.processes[number]
        if process.under_way is not None and process.grants is None:
            asks = process.under_way[1]
            now = int(self.now * 1000)
            process.grants = [self.book.lease(process.name, ask, now, int(TTL * 1000)) for ask in asks]

    def deliver(self, number: int) -> None:
        """The answer comes back."""
        process = self.processes[number]
        if process.under_way is not None and process.grants is not None:
            quotas, asks, until = process.under_way
            process.limiter.take(quotas, asks, process.grants, until)
            process.under_way = process.grants = None

    def exchange(self, number: int) -> None:
        """All of it, in no time."""
        self.send(number)
        self.arrive(number)
        self.deliver(number)

    def lose(self) -> None:
        """The store is gone, for all."""
        for process in self.processes:
            process.under_way = process.grants = None
            process.limiter.lose()

    # --- what must hold -----------------------------------------------------------------------------

    def in_window(self) -> int:
        """How many requests were started within the last minute."""
        return len(self._recent())

    def tokens_in_window(self) -> int:
        """How many tokens the requests of the last minute have used or still reserve."""
        return sum(request.reserved if request.open else request.used for request in self._recent())

    def _recent(self) -> list[Started]:
        return list(takewhile(lambda request: request.at > self.now - 60, reversed(self.started)))

    def in_flight(self) -> int:
        """How many requests of living processes are open."""
        return sum(len(process.open) for process in self.processes)
