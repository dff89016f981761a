"""The health board: when a deployment is left alone, probed and taken back."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.health import HealthBoard
from router.types import Breaker, Deployment, DeploymentHealth
from shared.errors import (
    ContextLengthExceeded,
    ServiceError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnauthorized,
    UpstreamUnavailable,
)
from tests.support.nouns import make_backend, make_deployment

FAULT = UpstreamUnavailable("down")
CALLERS = [UpstreamRejected(400, {"message": "no"}), ContextLengthExceeded("long"), UpstreamRejected(404, {})]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Board:
    """A board with its clock and one deployment."""

    def __init__(self, **breaker: object) -> None:
        self.clock = Clock()
        self.board = HealthBoard(self.clock)
        backend = make_backend(breaker=Breaker(**{"failures": 3, "cooldown": 10.0, **breaker}))  # type: ignore[arg-type]
        self.deployment = make_deployment("m@b", backend)

    @property
    def health(self) -> DeploymentHealth:
        """What the board says of the deployment."""
        return self.board.snapshot().get(self.deployment.id, DeploymentHealth())

    def attempt(self, error: ServiceError | None = None) -> None:
        """One whole request."""
        ticket = self.board.begin(self.deployment)
        if error is None:
            self.board.succeed(self.deployment, 100.0)
        else:
            self.board.fail(self.deployment, error)
        self.board.end(self.deployment, ticket)


def test_health_knows_nothing_of_an_untried_deployment() -> None:
    """A deployment that was never tried is in no snapshot."""
    assert dict(HealthBoard().snapshot()) == {}


def test_breaker_opens_after_its_number_of_faults_in_a_row() -> None:
    """One fault less than the limit keeps a deployment, a good answer starts the count anew."""
    board = Board()
    for error in (FAULT, UpstreamTimeout("slow"), None, FAULT, FAULT):
        board.attempt(error)
        assert board.health.available
    board.attempt(FAULT)
    assert not board.health.available
    assert board.health.reason == "breaker open after upstream_unavailable"


def test_breaker_never_opens_on_the_callers_errors() -> None:
    """Five hundred rejected requests say nothing against a deployment."""
    board = Board()
    for index in range(500):
        board.attempt(CALLERS[index % len(CALLERS)])
        assert board.health.available
    assert board.health.failure_rate == 0


def test_breaker_that_is_disabled_never_opens() -> None:
    """A backend may be exempt, whatever it does."""
    board = Board(enabled=False)
    for error in [FAULT, UpstreamUnauthorized("key"), UpstreamRateLimited("slow down", retry_after=60)] * 20:
        board.attempt(error)
        assert board.health.available


def test_breaker_opens_at_once_where_our_key_is_refused() -> None:
    """More attempts with the same key would fail the same way."""
    board = Board()
    board.attempt(UpstreamUnauthorized("bad key"))
    assert not board.health.available


def test_breaker_lets_one_probe_through_after_its_cooldown() -> None:
    """When the time is over one request goes out and all others keep away until it is done."""
    board = Board()
    for _ in range(3):
        board.attempt(FAULT)
    board.clock.now += 9.9
    assert not board.health.available
    board.clock.now += 0.1
    assert board.health.available
    ticket = board.board.begin(board.deployment)
    assert board.health.reason == "a probe is under way"
    board.board.succeed(board.deployment, 50)
    assert board.health.available
    board.board.end(board.deployment, ticket)
    board.attempt(FAULT)
    assert board.health.available, "after a good probe the count of faults starts at zero"


def test_breaker_opens_again_after_a_bad_probe() -> None:
    """One fault is enough then, and the cooldown begins anew."""
    board = Board()
    for _ in range(3):
        board.attempt(FAULT)
    board.clock.now += 10
    assert board.health.available
    board.attempt(FAULT)
    board.clock.now += 9.9
    assert not board.health.available
    board.clock.now += 0.1
    assert board.health.available


def test_breaker_closes_when_a_probe_is_refused_for_the_callers_sake() -> None:
    """A backend that answers 400 is there."""
    board = Board()
    for _ in range(3):
        board.attempt(FAULT)
    board.clock.now += 10
    board.attempt(CALLERS[0])
    assert board.health.available
    board.attempt(FAULT)
    assert board.health.available


def test_breaker_does_not_stick_when_the_probes_client_leaves() -> None:
    """A probe that nobody finished makes room for the next one."""
    board = Board()
    for _ in range(3):
        board.attempt(FAULT)
    for _ in range(3):
        board.clock.now += 10
        assert board.health.available
        ticket = board.board.begin(board.deployment)
        assert not board.health.available
        board.board.end(board.deployment, ticket)
        assert board.health.available


def test_breaker_keeps_one_probe_while_older_requests_end() -> None:
    """Streams from before the opening that end during a probe do not let a second one out."""
    board = Board()
    old = board.board.begin(board.deployment)
    for _ in range(3):
        board.attempt(FAULT)
    board.clock.now += 10
    assert board.health.available
    probe = board.board.begin(board.deployment)
    board.board.end(board.deployment, old)
    assert not board.health.available
    board.board.end(board.deployment, probe)
    assert board.health.available


def test_breaker_keeps_its_rest_whatever_older_requests_come_to() -> None:
    """Neither a late success, nor a late refusal, nor a late request, nor a leaving client cuts a cooldown short."""
    board = Board()
    tickets = [board.board.begin(board.deployment) for _ in range(4)]
    board.attempt(UpstreamRateLimited("slow down", retry_after=30))
    late = board.board.begin(board.deployment)
    assert board.health.reason == "breaker open after upstream_rate_limited"
    board.board.succeed(board.deployment, 80)
    board.board.fail(board.deployment, CALLERS[0])
    board.board.fail(board.deployment, FAULT)
    for ticket in (*tickets, late):
        board.board.end(board.deployment, ticket)
    board.clock.now += 29.9
    assert not board.health.available
    board.clock.now += 0.1
    assert board.health.available
    assert board.health.in_flight == 0


@pytest.mark.parametrize(("asked", "rest"), [(0.5, 0.5), (42.0, 42.0), (1e9, 3600.0)])
def test_breaker_honours_retry_after(asked: float, rest: float) -> None:
    """A backend that says how long to stay away is left alone for that long, within an hour."""
    board = Board()
    board.attempt(UpstreamRateLimited("slow down", retry_after=asked))
    board.clock.now += rest - 0.01
    assert not board.health.available
    board.clock.now += 0.02
    assert board.health.available


def test_breaker_opens_on_repeated_rate_limits_without_a_wait() -> None:
    """`Retry-After: 0` does not let a backend refuse for ever."""
    board = Board()
    for _ in range(3):
        board.attempt(UpstreamRateLimited("slow down", retry_after=0))
    board.clock.now += 9.9
    assert not board.health.available


def test_health_averages_the_time_to_the_first_token() -> None:
    """The newest sample weighs a fifth."""
    board = Board()
    for milliseconds in (100.0, 200.0):
        board.board.succeed(board.deployment, milliseconds)
    assert board.health.first_token_ms == pytest.approx(120.0)


def test_health_forgets_old_averages() -> None:
    """A deployment kept away for its slowness is measured again after a while."""
    board = Board()
    board.attempt(FAULT)
    board.board.succeed(board.deployment, 60_000.0)
    board.clock.now += 59
    assert board.health.first_token_ms == 60_000.0
    assert board.health.failure_rate > 0
    board.clock.now += 1
    assert board.health.first_token_ms is None
    assert board.health.failure_rate == 0


def test_health_snapshots_are_read_only_and_records_frozen() -> None:
    """Nobody but the board changes what it says."""
    board = Board()
    board.attempt()
    with pytest.raises(TypeError):
        board.board.snapshot()["m@b"] = DeploymentHealth()  # type: ignore[index]
    before = board.health
    board.attempt(FAULT)
    assert before.failure_rate == 0


def test_news_tells_each_change_once_to_a_reader_that_keeps_up() -> None:
    """A deployment that changed several times between two readings is told once, an unchanged one not at all."""
    board = Board()
    start, changed = board.board.news(-1, 10)
    assert changed is None, "a reader that knows nothing looks at everybody"
    other = make_deployment("n@b", board.deployment.backend)
    board.attempt()
    board.board.begin(other)
    now, changed = board.board.news(start, 10)
    assert changed is not None
    assert [state.id for state in changed] == ["m@b", "n@b"]
    assert board.board.news(now, 10) == (now, ())
    board.attempt()
    _, changed = board.board.news(now, 10)
    assert changed is not None
    assert [state.id for state in changed] == ["m@b"]
    assert board.board.state("m@b") is changed[0]
    assert board.board.state("x@b") is None


def test_news_tells_what_time_alone_changes() -> None:
    """The end of a cooldown and the forgetting of averages are news."""
    board = Board()
    board.attempt(UpstreamUnauthorized("key"))
    now, _ = board.board.news(-1, 10)
    for seconds, available, rate in ((10, True, True), (50, True, False)):
        board.clock.now += seconds - 0.1
        assert board.board.news(now, 10) == (now, ())
        board.clock.now += 0.1
        now, changed = board.board.news(now, 10)
        assert changed is not None
        assert [(state.id, state.available, state.failure_rate > 0) for state in changed] == [("m@b", available, rate)]


def test_news_of_long_ago_are_forgotten() -> None:
    """The log is bounded; a reader that is too far behind, or says so, looks at everybody."""
    board = Board()
    for _ in range(100_000):
        ticket = board.board.begin(board.deployment)
        now, _ = board.board.news(0, 10)
        board.board.end(board.deployment, ticket)
    assert board.board.news(0, 10**9) == (now + 1, None)
    assert board.board.news(now - 20, 10) == (now + 1, None)
    _, changed = board.board.news(now - 5, 10)
    assert changed is not None
    assert len(changed) == 6


class HealthMachine(RuleBasedStateMachine):
    """Any interleaving of requests, results and time over two deployments."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.board = HealthBoard(self.clock)
        backend = make_backend(breaker=Breaker(failures=2, cooldown=5.0))
        self.deployments = [make_deployment("m@b", backend), make_deployment("n@b", backend)]
        self.flying: list[tuple[Deployment, int]] = []
        self.rests: dict[str, float] = {}
        self.read = -1
        self.known: dict[str, DeploymentHealth] = {}

    @rule(which=st.integers(0, 1))
    def begin(self, which: int) -> None:
        """A request goes out, allowed or not."""
        deployment = self.deployments[which]
        self.flying.append((deployment, self.board.begin(deployment)))

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0, 99))
    def end(self, pick: int) -> None:
        """A request leaves without a word."""
        self.board.end(*self.flying.pop(pick % len(self.flying)))

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0, 99), milliseconds=st.floats(0, 1e6))
    def succeed(self, pick: int, milliseconds: float) -> None:
        """A request gets its first token."""
        self.board.succeed(self.flying[pick % len(self.flying)][0], milliseconds)

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0, 99), error=st.sampled_from([FAULT, *CALLERS, UpstreamUnauthorized("key")]))
    def fail(self, pick: int, error: ServiceError) -> None:
        """A request fails."""
        self.board.fail(self.flying[pick % len(self.flying)][0], error)

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0, 99), wait=st.floats(0, 20))
    def limit(self, pick: int, wait: float) -> None:
        """A request hits a rate limit that says for how long."""
        deployment = self.flying[pick % len(self.flying)][0]
        self.board.fail(deployment, UpstreamRateLimited("slow down", retry_after=wait))
        self.rests[deployment.id] = max(self.rests.get(deployment.id, 0.0), self.clock.now + wait)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.now += seconds

    @invariant()
    def counts_what_is_in_flight(self) -> None:
        """The number in flight is exact, so never negative."""
        snapshot = self.board.snapshot()
        for deployment in self.deployments:
            flying = sum(one is deployment for one, _ in self.flying)
            assert snapshot.get(deployment.id, DeploymentHealth()).in_flight == flying

    @invariant()
    def tells_all_news(self) -> None:
        """What a reader knows of old and the news come to what the board says now."""
        self.read, changed = self.board.news(self.read, 10)
        for deployment in self.deployments:
            state = self.board.state(deployment.id)
            if state is not None and (changed is None or state in changed):
                self.known[deployment.id] = state.publish()
        assert self.known == dict(self.board.snapshot())

    @invariant()
    def honours_every_rest(self) -> None:
        """A deployment is never available before the time it asked for is over."""
        snapshot = self.board.snapshot()
        for name, until in self.rests.items():
            assert self.clock.now >= until or not snapshot[name].available

    @invariant()
    def says_why(self) -> None:
        """A deployment is available or has a reason, never both; its averages are in range."""
        for health in self.board.snapshot().values():
            assert health.available == (health.reason == "")
            assert 0 <= health.failure_rate <= 1

    def teardown(self) -> None:
        """Once all is quiet and time has passed, every deployment may be tried again."""
        while self.flying:
            self.board.end(*self.flying.pop())
        self.clock.now += 4000
        assert all(health.available for health in self.board.snapshot().values())


TestHealthMachine = HealthMachine.TestCase
TestHealthMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
