"""Which sequence runs next. Pure: no torch, no clock, no I/O.

Sequences wait in order of arrival, up to `max_running` run at a time and take turns; a turn is one
chunk of prefill or one token. A sequence reserves room for its whole length when it starts to run,
so a running one never lacks memory half-way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Decode", "Prefill", "Scheduler", "Sequence", "Step"]


@dataclass(slots=True)
class Sequence:
    """What the scheduler knows of one generation.

    Args:
        id: The generation's id.
        prompt_tokens: Length of the prompt; at least 1.
        max_tokens: Tokens it may generate; at least 1.
    """

    id: int
    prompt_tokens: int
    max_tokens: int
    computed: int = 0
    """Prompt tokens whose keys and values are in the cache."""

    @property
    def reserved(self) -> int:
        """The cache slots it may need."""
        return self.prompt_tokens + self.max_tokens


@dataclass(frozen=True, slots=True)
class Prefill:
    """Compute prompt tokens `start` to `end`; `last` if the prompt ends there."""

    id: int
    start: int
    end: int
    last: bool


@dataclass(frozen=True, slots=True)
class Decode:
    """Compute one more token."""

    id: int


Step: TypeAlias = Prefill | Decode


class Scheduler:
    """Round robin over the running sequences.

    Args:
        max_running: How many sequences run at a time.
        token_budget: Cache slots that all running sequences together may reserve.
        chunk_size: The largest prefill chunk when this many tokens are in the cache already.
    """

    def __init__(self, max_running: int, token_budget: int, chunk_size: Callable[[int], int]) -> None:
        self._max_running = max_running
        self._budget = token_budget
        self._chunk_size = chunk_size
        self._waiting: deque[Sequence] = deque()
        self._running: deque[Sequence] = deque()
        self._reserved = 0

    @property
    def waiting(self) -> int:
        """How many sequences wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many sequences run."""
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the waiting line."""
        self._waiting.append(sequence)

    def remove(self, sequence_id: int) -> bool:
        """Forget a sequence, finished or cancelled; return whether it was known."""
        for line in (self._waiting, self._running):
            for sequence in line:
                if sequence.id == sequence_id:
                    line.remove(sequence)
                    if line is self._running:
                        self._reserved -= sequence.reserved
                    return True
        return False

    def next(self) -> Step | None:
        """Return the next step, which the caller then performs; None when there is nothing to do."""
        self._admit()
        if not self._running:
            return None
        sequence = self._running[0]
        self._running.rotate(-1)
        if sequence.computed < sequence.prompt_tokens:
            start = sequence.computed
            sequence.computed = end = min(sequence.prompt_tokens, start + max(1, self._chunk_size(start)))
            return Prefill(sequence.id, start, end, last=end == sequence.prompt_tokens)
        return Decode(sequence.id)

    def _admit(self) -> None:
        """Let waiting sequences run, in order; one that exceeds the whole budget runs alone."""
        while self._waiting and len(self._running) < self._max_running:
            wanted = self._waiting[0].reserved
            if self._running and self._reserved + wanted > self._budget:
                return
            self._reserved += wanted
            # At the front: a newcomer's first chunk comes before the others' next token.
            self._running.appendleft(self._waiting.popleft())
