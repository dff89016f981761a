"""Tracing: who is sampled, and what a collector really gets."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from router.tracing import HeadSampler, Tracer, open_tracer
from router.types import Attempt, Outcome, Usage
from tests.support.nouns import CALLER, make_backend, make_deployment
from tests.support.process import ROOT, clean_environment

CLIENTS = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"


class Collector:
    """An OTLP/HTTP receiver on a port."""

    def __init__(self) -> None:
        self.exports: list[ExportTraceServiceRequest] = []
        self.paths: list[str] = []
        collector = self

        class Receive(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.paths.append(self.path)
                collector.exports.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Receive)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> list[Span]:
        """Every span that came, the request's first."""
        return sorted(
            (span for export in self.exports for one in export.resource_spans for scope in one.scope_spans
             for span in scope.spans),
            key=lambda span: span.kind != Span.SPAN_KIND_SERVER,
        )  # fmt: skip


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running collector."""
    running = Collector()
    thread = threading.Thread(target=running.server.serve_forever, args=(0.02,))
    thread.start()
    yield running
    running.server.shutdown()
    running.server.server_close()
    thread.join()


def outcome(**values: Any) -> Outcome:
    """Return an outcome of two attempts, the second of which answered."""
    given = {
        "request_id": "req_1",
        "decision_id": "dec_1",
        "caller": CALLER,
        "endpoint": "chat",
        "asked": "auto",
        "policy": "auto",
        "deployment": make_deployment("m@b", make_backend("b", base_url="https://api.b.example/v1")),
        "status": 200,
        "error": None,
        "stream": True,
        "cache": "miss",
        "usage": Usage(12, 34),
        "cost_usd": Decimal("0.0025"),
        "attempts": (Attempt("m@a", 1.0, 5.0, "upstream_unavailable"), Attempt("m@b", 6.0, 20.0)),
        "first_token_ms": 26.0,
        "duration_ms": 100.0,
        "overhead_ms": 0.5,
    }
    return Outcome(**{**given, **values})


def attributes(span: Span) -> dict[str, Any]:
    """Return a span's attributes as plain values."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def traced(collector: Collector, traceparent: str | None, *outcomes: Outcome, ratio: float = 1.0) -> list[str | None]:
    """Trace requests until the collector has them; return what each would have forwarded."""
    tracer: Tracer = open_tracer(collector.url, "gateway", ratio)
    forwarded: list[str | None] = []
    for ended in outcomes:
        span = tracer.begin(traceparent)
        forwarded.append(None if span is None else span.traceparent)
        if span is not None:
            span.end(ended)
    tracer.close()
    return forwarded


# --- sampling at the head -----------------------------------------------------------------------


@given(flags=st.integers(0, 255), ratio=st.floats(0, 1))
def test_sampler_follows_the_callers_decision(flags: int, ratio: float) -> None:
    """A caller's flag decides, whatever the ratio."""
    assert HeadSampler(ratio).sampled(f"{CLIENTS}{flags:02x}") == bool(flags & 1)


@given(header=st.none() | st.text(max_size=54), drawn=st.floats(0, 1, exclude_max=True), ratio=st.floats(0, 1))
def test_sampler_draws_where_nobody_has_decided(header: str | None, drawn: float, ratio: float) -> None:
    """Without a header, or with one that is none, the ratio decides; 0 never samples and 1 always does."""
    assert HeadSampler(ratio, lambda: drawn).sampled(header) == (drawn < ratio)


# --- what is exported ---------------------------------------------------------------------------


def test_spans_of_a_request(collector: Collector) -> None:
    """A request is one server span, its attempts are the children, in the names that everybody uses."""
    (forwarded,) = traced(collector, None, outcome())
    assert collector.paths == ["/v1/traces"]
    request, failed, answered = collector.spans
    assert (request.name, request.kind, request.parent_span_id) == ("chat auto", Span.SPAN_KIND_SERVER, b"")
    assert attributes(request) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "auto",
        "gen_ai.response.model": "up",
        "gen_ai.provider.name": "b",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 34,
        "http.response.status_code": 200,
        "server.address": "api.b.example",
        "server.port": 443,
        "router.request_id": "req_1",
        "router.decision_id": "dec_1",
        "router.caller": CALLER.id,
        "router.policy": "auto",
        "router.cache": "miss",
        "router.attempts": 2,
        "router.stream": True,
        "router.first_token_ms": 26.0,
        "router.overhead_ms": 0.5,
        "router.cost_usd": 0.0025,
        "router.deployment": "m@b",
        "router.tier": "external",
        "router.usage_source": "reported",
    }
    assert request.end_time_unix_nano - request.start_time_unix_nano == 100_000_000
    for child in (failed, answered):
        assert (child.parent_span_id, child.kind) == (request.span_id, Span.SPAN_KIND_CLIENT)
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert attributes(failed)["error.type"] == "upstream_unavailable"
    assert "server.address" not in attributes(failed)
    assert attributes(answered)["server.address"] == "api.b.example"
    assert answered.start_time_unix_nano - request.start_time_unix_nano == 6_000_000
    assert answered.end_time_unix_nano - answered.start_time_unix_nano == 20_000_000
    assert forwarded is not None
    assert forwarded[:-2] == f"00-{request.trace_id.hex()}-{request.span_id.hex()}-"
    (resource,) = collector.exports[0].resource_spans
    assert {item.key: item.value.string_value for item in resource.resource.attributes}["service.name"] == "gateway"


def test_span_continues_the_callers_trace(collector: Collector) -> None:
    """A sampled caller's trace goes on in the router and, with the router's span, behind it."""
    (forwarded,) = traced(collector, f"{CLIENTS}01", outcome(attempts=()), ratio=0.0)
    (request,) = collector.spans
    assert request.trace_id.hex() == CLIENTS[3:35]
    assert request.parent_span_id.hex() == CLIENTS[36:52]
    assert forwarded == f"{CLIENTS[:36]}{request.span_id.hex()}-01"


@pytest.mark.parametrize(
    "header", ["00-1-2-01", "x" * 54 + "1", "", "\N{SNOWMAN}" * 55], ids=["short", "long", "empty", "no-ascii"]
)
def test_a_header_that_is_none_begins_a_new_trace(collector: Collector, header: str) -> None:
    """A `traceparent` that cannot be read is no parent, and what is forwarded can be read."""
    (forwarded,) = traced(collector, header, outcome(attempts=()))
    (request,) = collector.spans
    assert request.parent_span_id == b""
    assert forwarded is not None
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", forwarded)


def test_unsampled_requests_make_nothing(collector: Collector) -> None:
    """What the caller or chance left out is not exported, and its header is not the router's to change."""
    assert traced(collector, f"{CLIENTS}00", outcome()) == [None]
    assert traced(collector, None, outcome(), ratio=0.0) == [None]
    assert collector.exports == []


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (502, "all_candidates_failed", Status.STATUS_CODE_ERROR),
        (404, "model_not_found", Status.STATUS_CODE_UNSET),
        (499, "client_disconnected", Status.STATUS_CODE_UNSET),
    ],
)
def test_span_of_a_failure(collector: Collector, status: int, error: str, code: int) -> None:
    """What failed is told by its code; only the service's own failures are errors."""
    lost = outcome(status=status, error=error, deployment=None, usage=None, cost_usd=None, attempts=(), policy=None)
    traced(collector, None, lost)
    (request,) = collector.spans
    assert request.status.code == code
    said = attributes(request)
    assert (said["error.type"], said["http.response.status_code"]) == (error, status)
    assert "gen_ai.usage.input_tokens" not in said


def test_a_collector_that_is_away_costs_no_request() -> None:
    """Nobody at the endpoint: requests go on and closing comes back."""
    tracer = open_tracer("http://127.0.0.1:1", "gateway", 1.0)
    span = tracer.begin(None)
    assert span is not None
    span.end(outcome())
    tracer.close()


def test_start_without_the_extra_is_refused(tmp_path: Path) -> None:
    """An endpoint without the packages stops the start with what to install, in one line."""
    program = "import sys; sys.modules['opentelemetry.sdk'] = None; from router.__main__ import main; sys.exit(main())"
    settings = {"SQLITE_DB_PATH": str(tmp_path / "m.db"), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=clean_environment({**settings, "ROUTER_PORT": "0", "LOCAL_AGENT_URL": "off"}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "inference-router[otel]" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
