"""Meter and Ledger: one settlement for each request, whatever was observed of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from router.accounting import Ledger, Meter, log_fields
from router.metrics import RouterMetrics
from router.types import Attempt, Chunk, Completion, Outcome, Price
from shared.sse import DONE
from shared.types import Usage
from tests.support.nouns import chat_request, make_deployment


class Sink:
    """Keeps what it is given, or refuses it."""

    def __init__(self, broken: bool = False) -> None:
        self.taken: list[Outcome] = []
        self._broken = broken

    def write(self, outcome: Outcome) -> None:
        """Take one outcome."""
        if self._broken:
            raise RuntimeError("full")
        self.taken.append(outcome)


def ledger(broken: bool = False) -> tuple[Ledger, Sink, RouterMetrics]:
    """Return a ledger with its sink and its metrics."""
    sink, metrics = Sink(broken), RouterMetrics(CollectorRegistry())
    return Ledger(sink, metrics), sink, metrics


def opened(price: Price | None = None, **fields: Any) -> Meter:
    """Return the meter of a request that a deployment has answered."""
    meter = ledger()[0].open(chat_request(**fields), 10.0)
    meter.trail.deployment = make_deployment("m@b", price=price or Price(Decimal(1), None, Decimal(2)))
    meter.trail.attempts.append(Attempt("m@b", 0.1, 2.0))
    meter.trail.first_sent, meter.trail.first_token = 10.000_25, 10.5
    meter.known, meter.model, meter.backend = True, "m", "b"
    return meter


def test_settle_happens_once() -> None:
    """The first settlement is written, counted and told; a second is nothing."""
    book, sink, metrics = ledger()
    meter = book.open(chat_request(), 0.0)
    assert metrics.counts.in_flight == 1
    meter.known = True
    first = book.settle(meter)
    assert first is not None
    assert book.settle(meter) is None
    assert sink.taken == [first]
    assert metrics.counts.in_flight == 0
    assert list(metrics.counts.answers) == [("m", "m", "none", 200, "off")]


def test_an_invented_name_is_no_label() -> None:
    """A model that nobody knows is counted as unknown and written as it was asked for."""
    book, sink, metrics = ledger()
    book.settle(book.open(chat_request(model="invented"), 0.0))
    assert [key[0] for key in metrics.counts.answers] == ["unknown"]
    assert sink.taken[0].asked == "invented"


def test_settle_survives_a_broken_sink(caplog: pytest.LogCaptureFixture) -> None:
    """An answer is not lost to its accounting."""
    book, _, _ = ledger(broken=True)
    assert book.settle(book.open(chat_request(), 0.0)) is not None
    assert "an outcome could not be accounted" in caplog.text


def test_decisions_have_ids_of_their_own() -> None:
    """Every meter's decision has a new id."""
    book, _, _ = ledger()
    made = {book.open(chat_request(), 0.0).decision_id for _ in range(300)}
    assert len(made) == 300
    assert all(name.startswith("dec_") and len(name) == 28 for name in made)


def test_outcome_times_are_in_milliseconds() -> None:
    """Times count from the request's arrival, rounded to what they mean."""
    outcome = opened().outcome(10.512_346)
    assert (outcome.first_token_ms, outcome.duration_ms, outcome.overhead_ms) == (500.0, 512.35, 0.25)


def test_observe_takes_the_last_usage_and_the_end() -> None:
    """A stream is complete at its `[DONE]`, a whole answer at once; usage is the last that was said."""
    meter = opened(stream=True)
    meter.observe(Chunk(b"data: {}\n\n"))
    meter.observe(Chunk(b"x" * 400, output=True, usage=Usage(1, 1)))
    meter.observe(Chunk(b"data: {}\n\n", usage=Usage(7, 5)))
    assert (meter.complete, meter.output_bytes) == (False, 400)
    meter.observe(Chunk(DONE, done=True))
    assert (meter.complete, meter.usage) == (True, Usage(7, 5))
    meter = opened()
    meter.observe(Completion(b"{}", Usage(3, 2)))
    assert (meter.complete, meter.usage) == (True, Usage(3, 2))


def test_usage_is_estimated_where_the_backend_says_nothing() -> None:
    """Delivered output is accounted for, and marked as an estimate."""
    meter = opened(stream=True)
    for _ in range(3):
        meter.observe(Chunk(b"x" * 190, output=True))
    usage = meter.outcome(11.0).usage
    assert usage is not None
    assert (usage.completion_tokens, usage.source) == (3, "estimated")


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.decimals(0, 100, places=6), st.decimals(0, 100, places=6))
def test_cost_is_exact(prompt: int, completion: int, price_in: Decimal, price_out: Decimal) -> None:
    """Money is what the price says to the digit, however often it was asked for in between."""
    meter = opened(Price(price_in, None, price_out))
    meter.observe(Chunk(b"", usage=Usage(1, 1)))
    meter.head(10.2)
    meter.observe(Chunk(b"", usage=Usage(prompt, completion)))
    meter.head(10.3)
    assert meter.outcome(11.0).cost_usd == (prompt * price_in + completion * price_out) / 1_000_000


def test_head_says_what_is_known() -> None:
    """Headers come as pairs that can be sent, and as a dictionary with the same content."""
    meter = opened()
    meter.observe(Completion(b"{}", Usage(10, 5)))
    assert meter.head(11.0) == [
        (b"x-router-decision-id", meter.decision_id.encode()),
        (b"x-router-attempts", b"1"),
        (b"x-router-cache", b"off"),
        (b"x-router-overhead-ms", b"0.25"),
        (b"x-router-model", b"m"),
        (b"x-router-backend", b"b"),
        (b"x-router-cost-usd", b"0.00002"),
    ]
    assert dict(meter.head(11.0))[b"x-router-cost-usd"] == b"0.00002"
    assert len(meter.head(11.0)) == 7


def test_head_before_anything_is_known() -> None:
    """What is not known is left out; any number of attempts can be told."""
    meter = ledger()[0].open(chat_request(), 10.0)
    assert [name for name, _ in meter.head(10.0)][-1] == b"x-router-overhead-ms"
    meter.trail.attempts += [Attempt("m@b", 0.0, 0.0)] * 12
    assert dict(meter.head(10.0))[b"x-router-attempts"] == b"12"


@given(st.text(max_size=40))
def test_head_holds_any_name(name: str) -> None:
    """Whatever a model is called, its header is printable ASCII."""
    meter = opened()
    meter.model = name
    for _ in range(2):  # made, and then remembered
        value = dict(meter.head(11.0))[b"x-router-model"]
        assert all(0x20 <= byte < 0x7F for byte in value)


def test_remembered_names_are_bounded() -> None:
    """Names are remembered for the next requests, but not without end."""
    book, _, _ = ledger()
    for number in range(3000):
        meter = book.open(chat_request(), 0.0)
        meter.model = f"m{number}"
        assert dict(meter.head(0.0))[b"x-router-model"] == f"m{number}".encode()
    assert len(meter.names) <= 1024


def test_log_fields_say_no_text() -> None:
    """The log line of a request has plain values."""
    meter = opened()
    meter.observe(Completion(b"{}", Usage(10, 5)))
    assert log_fields(meter.outcome(11.0)) == {
        "caller": "key_1",
        "model": "m",
        "deployment": "m@b",
        "attempts": 1,
        "cache": "off",
        "error": None,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost_usd": "0.00002",
        "first_token_ms": 500.0,
    }
