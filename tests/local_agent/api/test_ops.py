"""Tests of the operational routes and of errors that no route makes."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.agent import MODEL
from tests.support.process import Service


def test_healthz_is_alive(client: httpx.Client) -> None:
    """The web process answers for itself."""
    assert client.get("/healthz").json() == {"status": "ok"}


def test_readyz_tells_everything(client: httpx.Client) -> None:
    """Readiness names model, device, queue and restarts."""
    response = client.get("/readyz")
    body = response.json()
    assert response.status_code == 200
    assert (body["status"], body["model"], body["device"], body["format"]) == ("ready", MODEL, "cpu", "float32")
    assert (body["requested_model"], body["fallback_reason"]) == (MODEL, None)
    assert body["queue"]["limit"] == 32
    assert body["progress"] is None


def test_metrics_count_tokens(client: httpx.Client) -> None:
    """An answered request appears in the metrics with its tokens."""

    def sample(name: str, **labels: str) -> float:
        families = text_string_to_metric_families(client.get("/metrics").text)
        found = [s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items()]
        return sum(found)

    before = sample("local_agent_tokens_total", kind="completion"), sample("local_agent_requests_total", outcome="ok")
    client.post("/infer", json={"prompt": "Hi", "max_tokens": 3, "temperature": 0}).raise_for_status()
    after = sample("local_agent_tokens_total", kind="completion"), sample("local_agent_requests_total", outcome="ok")
    assert (after[0] - before[0], after[1] - before[1]) == (3, 1)
    assert sample("local_agent_ready") == 1
    assert sample("local_agent_first_token_seconds_count", route="infer") >= 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/infer/", 404, "not_found"),
        ("GET", "/infer", 405, "method_not_allowed"),
        ("DELETE", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
def test_wrong_paths_and_methods_are_openai_errors(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    """Also what no route handles is OpenAI's error object with all four keys."""
    response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["code"] == code
    if status == 405:
        assert response.headers["allow"]


def test_requests_carry_an_id(client: httpx.Client) -> None:
    """Every answer has an id of its own, whatever the caller sent."""
    ids = {client.get("/healthz", headers={"x-request-id": "abc"}).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(name.startswith("req_") for name in ids)


def test_log_has_no_line_per_probe(agent: Service, client: httpx.Client) -> None:
    """Probes do not fill the log, other requests have their line."""
    client.get("/healthz")
    client.get("/v1/models")
    assert "/healthz" not in agent.output()
