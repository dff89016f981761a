"""Usage rows: what an outcome says, a journal's line keeps and a table holds are the same."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from router.registry import schema
from router.registry.store import RegistryStore
from router.registry.usage_rows import UsageRow, _named, read_row, usage_row, write_row
from router.types import Attempt
from tests.router.registry.outcomes import ids, outcome, rows


def test_fields_are_the_columns() -> None:
    """Rows are inserted by position, so the fields stand in the table's order."""
    assert list(UsageRow.__struct_fields__) == schema.usage.columns.keys()


@given(
    st.text(max_size=300),
    st.decimals(min_value=0, max_value=1000, places=12),
    st.lists(st.builds(Attempt, st.text(st.characters(codec="utf-8")), st.just(0.5), st.just(1.5)), max_size=3),
)
def test_a_line_gives_its_row_back(asked: str, cost: Decimal, attempts: list[Attempt]) -> None:
    """Whatever a client calls a model, the row survives the journal whole, as one line."""
    row = usage_row(outcome("r", asked=asked, cost_usd=cost, attempts=tuple(attempts)), 1)
    line = write_row(row)
    assert b"\n" not in line
    assert read_row(line) == row
    assert Decimal(json.loads(line)["cost_usd"]) == cost


def test_row_is_plain_json() -> None:
    """Money is decimal text without an exponent."""
    assert usage_row(outcome("r", cost_usd=Decimal("1E-9")), 1).cost_usd == "0.000000001"


def test_row_of_any_name_can_be_stored() -> None:
    """What a client calls a model cannot keep its request from being accounted for."""
    row = usage_row(outcome("r", asked="a\x00\ud800" + "b" * 1000), 1)
    assert row.asked == "a??" + "b" * 253


def test_rows_of_any_number_are_inserted(store: RegistryStore, place: Path | str) -> None:
    """Groups of every length fall into the table, also where a request comes twice in one of them."""
    many = [usage_row(outcome(f"r{number:03}"), number) for number in range(100)]
    store.insert_usage([*many[:33], many[0]])
    store.insert_usage(many)
    assert ids(place) == [f"r{number:03}" for number in range(100)]
    assert [row["created_at"] for row in rows(place)] == list(range(100))


def test_a_server_gets_typed_values() -> None:
    """PostgreSQL's driver is given money as a number and attempts as JSON values."""
    named = _named(usage_row(outcome("r"), 1))
    assert named["cost_usd"] == Decimal("0.00000125")
    assert list(named["attempts"]) == [{"deployment": "m@b", "started_ms": 1.0, "duration_ms": 20.0, "error": None}]
    assert named["stream"] is True
