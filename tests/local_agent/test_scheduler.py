"""Tests of the scheduler."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from local_agent.scheduler import Decode, Prefill, Scheduler, Sequence


def test_scheduler_takes_turns() -> None:
    """Running sequences alternate, one token each."""
    scheduler = Scheduler(2, 1000, lambda _: 512)
    for number in (1, 2, 3):
        scheduler.add(Sequence(number, 5, 10))
    steps = [scheduler.next() for _ in range(6)]
    assert [step.id for step in steps[:2] if step] == [1, 2] or [step.id for step in steps[:2] if step] == [2, 1]
    assert {step.id for step in steps[2:4] if step} == {1, 2}
    assert (scheduler.running, scheduler.waiting) == (2, 1)


def test_scheduler_interleaves_a_long_prefill_with_decoding() -> None:
    """A long prompt that arrives during a generation delays each of its tokens by one chunk at most."""
    scheduler = Scheduler(2, 10_000, lambda _: 100)
    scheduler.add(Sequence(1, 10, 50))
    assert scheduler.next() == Prefill(1, 0, 10, last=True)
    scheduler.add(Sequence(2, 450, 50))
    steps = [scheduler.next() for _ in range(9)]
    for first, second in itertools.pairwise(steps):
        assert not (isinstance(first, Prefill) and isinstance(second, Prefill))
    assert [step.end for step in steps if isinstance(step, Prefill)] == [100, 200, 300, 400, 450]


def test_scheduler_lets_an_oversized_sequence_run_alone() -> None:
    """A sequence that exceeds the budget by itself is not starved."""
    scheduler = Scheduler(4, 10, lambda _: 512)
    scheduler.add(Sequence(1, 100, 1))
    scheduler.add(Sequence(2, 1, 1))
    assert scheduler.next() == Prefill(1, 0, 100, last=True)
    assert scheduler.running == 1
    scheduler.remove(1)
    assert scheduler.next() == Prefill(2, 0, 1, last=True)


@given(st.integers(1, 2000), st.integers(1, 600))
def test_scheduler_prefill_covers_the_prompt_once(prompt: int, chunk: int) -> None:
    """Chunks are adjacent, cover the prompt exactly, and only the last one says so."""
    scheduler = Scheduler(1, 10_000, lambda _: chunk)
    scheduler.add(Sequence(1, prompt, 1))
    end = 0
    while True:
        step = scheduler.next()
        assert isinstance(step, Prefill)
        assert step.start == end
        assert 1 <= step.end - step.start <= chunk
        end = step.end
        if step.last:
            break
    assert end == prompt
    assert scheduler.next() == Decode(1)


class SchedulerMachine(RuleBasedStateMachine):
    """Arrivals, steps and departures in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(3, 60, lambda _: 7)
        self.ids = 0
        self.alive: dict[int, Sequence] = {}
        self.order: list[int] = []
        self.started: list[int] = []

    @rule(prompt=st.integers(1, 30), tokens=st.integers(1, 30))
    def arrive(self, prompt: int, tokens: int) -> None:
        """A sequence arrives."""
        self.ids += 1
        sequence = Sequence(self.ids, prompt, tokens)
        self.alive[self.ids] = sequence
        self.order.append(self.ids)
        self.scheduler.add(sequence)

    @rule()
    def step(self) -> None:
        """The next step belongs to a living sequence; there is one whenever something lives."""
        step = self.scheduler.next()
        assert (step is None) == (not self.alive)
        if step is not None:
            assert step.id in self.alive
            if step.id not in self.started:
                assert isinstance(step, Prefill)
                assert step.start == 0
                self.started.append(step.id)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A sequence finishes or is cancelled, running or waiting."""
        gone = data.draw(st.sampled_from(sorted(self.alive)))
        assert self.scheduler.remove(gone)
        assert not self.scheduler.remove(gone)
        del self.alive[gone]

    @invariant()
    def nothing_is_lost_or_duplicated(self) -> None:
        """Waiting and running are exactly the living."""
        assert self.scheduler.waiting + self.scheduler.running == len(self.alive)

    @invariant()
    def limits_hold(self) -> None:
        """No more run, and reserve, than allowed; a lone oversized one excepted."""
        assert self.scheduler.running <= 3


TestSchedulerMachine = SchedulerMachine.TestCase


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 5)), min_size=1, max_size=12), st.integers(1, 4))
def test_scheduler_finishes_everything(jobs: list[tuple[int, int]], max_running: int) -> None:
    """Every sequence gets exactly the tokens it wants, whatever the mixture."""
    scheduler = Scheduler(max_running, 50, lambda _: 8)
    left = {}
    for number, (prompt, tokens) in enumerate(jobs):
        scheduler.add(Sequence(number, prompt, tokens))
        left[number] = tokens
    got = dict.fromkeys(left, 0)
    while step := scheduler.next():
        if isinstance(step, Decode) or step.last:
            got[step.id] += 1
            if got[step.id] == left[step.id]:
                scheduler.remove(step.id)
    assert got == left
