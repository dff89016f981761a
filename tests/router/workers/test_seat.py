"""A seat survives the command line, and its shares add up."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from router.workers.seat import Seat, remove_folder


@given(st.integers(1, 300), st.data())
def test_seat_survives_the_command_line(of: int, data: st.DataObject) -> None:
    """What a parent writes a worker reads."""
    seat = Seat(data.draw(st.integers(0, of - 1)), of, 3, 17, Path("/tmp/a folder/x=y"))
    assert Seat.parse(seat.arguments()) == seat


def test_seat_is_none_on_a_command_line_of_a_person() -> None:
    """A router that is started by hand has no parent."""
    assert Seat.parse([]) is None
    assert Seat.parse(["--help"]) is None


@given(st.integers(1, 64), st.integers(0, 10_000))
def test_shares_add_up_to_the_limit(of: int, limit: int) -> None:
    """No share is lost and none is given twice, however unevenly a limit divides."""
    shares = [Seat(number, of, 0, 0, Path()).share(limit) for number in range(of)]
    assert sum(shares) == limit
    assert max(shares) - min(shares) <= 1


def test_one_worker_is_the_first() -> None:
    """What is done once for all has one who does it."""
    assert [Seat(number, 3, 0, 0, Path()).first for number in range(3)] == [True, False, False]


def test_remove_folder_leaves_nothing_and_takes_what_is_not_there(tmp_path: Path) -> None:
    """Whoever comes second finds nothing to do."""
    folder = tmp_path / "counts"
    folder.mkdir()
    (folder / "1.counts").write_text("x")
    remove_folder(folder)
    assert not folder.exists()
    remove_folder(folder)
