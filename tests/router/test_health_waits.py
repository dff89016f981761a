"""What the health board says of waits for a first token, and of who has room to spare."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.health import HealthBoard
from shared.errors import UpstreamOverloaded, UpstreamRateLimited, UpstreamUnavailable
from tests.support.nouns import make_deployment


@given(st.lists(st.integers(0, 10_000), max_size=400))
def test_slow_first_token_is_the_95th_of_100_of_the_last(waits: list[int]) -> None:
    """It is at most 8 waits behind the exact figure of the last 128, and unknown before 20."""
    board, place = HealthBoard(), make_deployment()
    exact: list[float | None] = []
    for count, wait in enumerate(waits, 1):
        board.succeed(place, wait)
        last = sorted(waits[max(0, count - 128) : count])
        exact.append(last[-(len(last) // 20) - 1] if count >= 20 else None)
        assert board.slow_ms(place) in exact[-8:]
        assert (board.slow_ms(place) is None) is (count < 20)


def test_stream_given_up_counts_only_where_it_was_slow() -> None:
    """A lower bound corrects the figure upwards; below it, it says nothing."""
    board, place = HealthBoard(), make_deployment()
    for _ in range(20):
        board.succeed(place, 100)
    for _ in range(200):
        board.outwaited(place, 50)
    assert board.slow_ms(place) == 100
    for _ in range(20):
        board.outwaited(place, 300)
    assert board.slow_ms(place) == 300
    assert board.snapshot()[place.id].first_token_ms == 100


def test_spare_is_who_is_well_and_not_full() -> None:
    """One nobody knows, yes; one that rests or probes or said it is full, no, until that has passed."""
    now = [0.0]
    board, place = HealthBoard(lambda: now[0]), make_deployment()
    assert board.spare(place)
    board.fail(place, UpstreamOverloaded("full"))
    assert not board.spare(place)
    now[0] = 1.0
    assert board.spare(place)
    board.fail(place, UpstreamOverloaded("full", retry_after=7))
    now[0] = 7.9
    assert not board.spare(place)
    now[0] = 8.0
    for _ in range(5):
        board.fail(place, UpstreamUnavailable("down"))
    assert not board.spare(place)
    now[0] = 30.0
    board.news(0, 0)
    assert not board.spare(place)
    board.succeed(place, None)
    assert board.spare(place)


def test_back_in_is_the_soonest_of_those_that_rest() -> None:
    """Nothing where nobody rests, and never a time that has passed."""
    now = [0.0]
    board = HealthBoard(lambda: now[0])
    first, second = make_deployment("m@a"), make_deployment("m@b")
    assert board.back_in([first.id, second.id]) is None
    board.fail(first, UpstreamRateLimited("wait", retry_after=30))
    board.fail(second, UpstreamRateLimited("wait", retry_after=20))
    assert board.back_in([first.id, second.id]) == 20
    assert board.back_in([first.id, "m@unknown"]) == 30
    now[0] = 25.0
    assert board.back_in([first.id, second.id]) == 0
