"""The faults of the field: what breaks gateways elsewhere, and the tests that show what happens here."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FIELD", "FieldFault"]


class FieldFault(NamedTuple):
    """One kind of fault.

    Attributes:
        name: What it is called.
        says: What happens elsewhere.
        tests: The tests, each as `path::name`.
    """

    name: str
    says: str
    tests: tuple[str, ...]

    def row(self) -> str:
        """Return the table's row."""
        told = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in self.tests)
        return f"| {self.name} | {self.says} | {told} |"


_MATRIX = "tests/integration/faults/test_matrix.py::"
_RESUME = "tests/router/test_resume.py::"
_HEALTH = "tests/router/test_health.py::"
_DISPATCH = "tests/router/test_dispatch.py::"
_RULES = "tests/integration/test_failure_rules.py::"
_BREAKER = "tests/integration/test_breaker.py::"
_CLUSTER = "tests/integration/test_cluster_failures.py::"
_ZERO = "tests/integration/test_scale_from_zero.py::"

FIELD: tuple[FieldFault, ...] = (
    FieldFault(
        "The client is gone",
        "The backend generates on for nobody.",
        (
            "tests/router/api/test_chat.py::test_chat_cancels_the_upstream_when_the_client_leaves",
            "tests/router/server/test_protocol.py::test_client_that_leaves_ends_the_upstream_request",
            "tests/router/test_gateway.py::test_gateway_accounts_for_a_client_that_left",
        ),
    ),
    FieldFault(
        "A stream breaks in the middle",
        "Half an answer with a clean end, or two answers in one.",
        (
            f"{_MATRIX}test_fault_with_a_healthy_candidate",
            f"{_RESUME}test_stream_cut_at_every_boundary_is_one_answer",
            f"{_RESUME}test_other_text_is_never_joined",
            "tests/integration/test_survival.py::test_stream_cut_at_every_event_says_what_an_uncut_one_says",
        ),
    ),
    FieldFault(
        "The error is the first event",
        "A 200 has been sent, and no fallback is possible any more.",
        (f"{_MATRIX}test_fault_with_a_healthy_candidate",),
    ),
    FieldFault(
        "A breaker counts the caller's mistakes, or sticks",
        "One caller's 400s close a backend for all; a probe that never ends keeps it closed.",
        (
            f"{_HEALTH}test_breaker_never_opens_on_the_callers_errors",
            f"{_HEALTH}test_breaker_does_not_stick_when_the_probes_client_leaves",
            f"{_HEALTH}test_breaker_lets_one_probe_through_after_its_cooldown",
            f"{_BREAKER}test_callers_mistakes_never_open_it",
            f"{_BREAKER}test_outage_costs_one_probe_an_interval",
            f"{_BREAKER}test_one_good_probe_closes_it",
        ),
    ),
    FieldFault(
        "Retries multiply",
        "Twelve attempts, or eighty thousand round a cycle of fallbacks.",
        (
            f"{_MATRIX}test_attempts_are_bounded",
            f"{_DISPATCH}test_dispatch_keeps_its_invariants",
            f"{_RULES}test_attempts_are_one_budget_for_everything",
            f"{_RULES}test_fallbacks_in_a_circle_are_refused",
        ),
    ),
    FieldFault(
        "A backend is silent",
        "The request hangs for minutes.",
        (
            f"{_MATRIX}test_fault_alone",
            f"{_DISPATCH}test_dispatch_gives_up_on_silence_and_moves_on",
            f"{_RULES}test_each_timeout_fires_alone",
            f"{_RULES}test_connect_timeout_fires_alone_and_the_next_answers",
        ),
    ),
    FieldFault(
        "Nobody has room, and the status says something else",
        "A 429 for a 503, a 500 for a metric of yesterday.",
        (
            f"{_MATRIX}test_fault_alone",
            "tests/router/test_dispatch_limits.py::test_request_without_any_room_is_told_when_to_come_again",
            "tests/router/test_dispatch_limits.py::test_failures_before_the_limit_tell_more",
            f"{_BREAKER}test_no_capacity_is_told_as_what_it_is",
        ),
    ),
    FieldFault(
        "A cluster says it in words of its own",
        "Plain text reaches clients as a broken answer; a full queue opens breakers; nobody says when to come back.",
        (
            f"{_CLUSTER}test_shape_alone_is_told_by_its_meaning",
            f"{_CLUSTER}test_shape_falls_over_where_somebody_else_can_answer",
            f"{_CLUSTER}test_shape_counts_against_health_only_where_it_is_a_fault",
            f"{_CLUSTER}test_no_answer_tells_what_is_the_clusters_own",
        ),
    ),
    FieldFault(
        "A worker that is told to stop ends its answers properly",
        "Half an answer is billed as a whole one: the status is 200 and `[DONE]` follows.",
        (
            f"{_CLUSTER}test_shape_alone_is_told_by_its_meaning",
            f"{_ZERO}test_answer_that_a_scale_down_cut_goes_on_when_the_cluster_is_back",
        ),
    ),
    FieldFault(
        "A cluster has scaled to zero",
        "Requests fail until it is up, or hang without end; a breaker keeps it from ever being woken.",
        (
            f"{_ZERO}test_request_waits_until_the_cluster_has_started",
            f"{_ZERO}test_first_token_limit_does_not_cut_a_start_off",
            f"{_ZERO}test_whatever_a_cluster_says_while_it_starts_is_waited_out",
            f"{_ZERO}test_wait_is_bounded",
            f"{_ZERO}test_no_more_wait_than_there_is_room_for",
            f"{_ZERO}test_client_that_leaves_waits_no_longer",
            f"{_ZERO}test_others_answer_first_while_a_cluster_starts",
            f"{_ZERO}test_privacy_is_waited_for",
        ),
    ),
)
