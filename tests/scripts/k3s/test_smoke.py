"""The smoke test with real HTTP: each step that can fail, and what is said of it."""

from __future__ import annotations

import json

import pytest

from tests.scripts.k3s.entrance import GOOD, MODEL, Entrance
from tests.scripts.k3s.host import Host

STREAM = GOOD["stream"][1]


def test_all_steps_are_asked_and_told(host: Host, cluster: Entrance) -> None:
    """Models with their length, one chat, one stream, a bad model, the metrics of both parts."""
    result = host.up("--mode", "sim")
    assert result.status == 0, result.told
    for text in (
        f"models: {MODEL}, 8192 tokens",
        "chat: answered",
        "stream: whole, with usage",
        "a model that is not there: 404",
        "metrics of decode: there",
        "metrics of epp: there",
    ):
        assert f"smoke test: {text}" in result.told
    assert cluster.kinds == ["models", "chat", "stream", "bad model"]


@pytest.mark.parametrize(
    ("kind", "status", "text", "complaint"),
    [
        ("models", 503, "no healthy upstream", "/v1/models does not answer 200"),
        ("models", 200, '{"object": "list", "data": []}', "no model is listed"),
        ("models", 200, json.dumps({"data": [{"id": MODEL}]}), "max_model_len is missing"),
        ("chat", 500, '{"error": {"message": "engine died"}}', "no whole answer came"),
        ("chat", 200, "{}", "no whole answer came"),
        ("stream", 503, "upstream connect error", "no stream came"),
        ("stream", 200, GOOD["chat"][1], "no stream came"),
        ("stream", 200, STREAM.replace('"usage": {', '"other": {'), "the stream has no usage"),
        ("stream", 200, STREAM.replace("data: [DONE]\n\n", ""), "the stream does not end with [DONE]"),
        ("bad model", 200, GOOD["chat"][1], "a model that is not there gets 200, not 404"),
    ],
)
def test_step_that_fails_is_told_with_its_answer(
    host: Host, cluster: Entrance, kind: str, status: int, text: str, complaint: str
) -> None:
    """Status 7, the step, the beginning of what came, the command that tells more; no endpoint is stored."""
    cluster.answers[kind] = (status, text)
    result = host.up("--mode", "sim")
    assert result.status == 7
    assert f"smoke test, {kind}: " in result.told
    assert complaint in result.told
    assert text[:30].partition("\n")[0] in result.told
    assert "kubectl --namespace llm-d logs deployment/llm-d-" in result.told
    assert host.dotenv == ""


def test_entrance_that_refuses_connections_is_told(host: Host) -> None:
    """In the words of curl."""
    host.port = 1
    result = host.up("--mode", "sim")
    assert result.status == 7
    assert "does not answer 200" in result.told
    assert "Failed to connect" in result.told or "Couldn't connect" in result.told


@pytest.mark.parametrize("part", ["worker", "epp"])
def test_missing_metrics_are_told(host: Host, cluster: Entrance, part: str) -> None:
    """Of either part; scaling and alerts depend on them."""
    result = host.answers(**{f"{part}_metrics": "# nothing\n"}).up("--mode", "sim")
    assert result.status == 7
    assert "smoke test, metrics: the pod llm-d-" in result.told


def test_run_after_a_failed_smoke_test_deploys_nothing_again(host: Host, cluster: Entrance) -> None:
    """The release is there; only the questions are asked again."""
    cluster.answers["chat"] = (500, "no")
    assert host.up("--mode", "sim").status == 7
    cluster.answers["chat"] = GOOD["chat"]
    result = host.up("--mode", "sim")
    assert (result.status, result.changes) == (0, [])


def test_address_of_version_6_is_bracketed(host: Host) -> None:
    """Its colons are no port."""
    result = host.answers(service_address="fd00::1").up("--mode", "sim")
    assert result.status == 7
    assert "http://[fd00::1]:80/v1/models" in result.told


def test_entrance_inside_the_cluster_is_told(host: Host) -> None:
    """A ClusterIP of the user's own wish is reached by nothing outside."""
    result = host.answers(service_type="ClusterIP").up("--mode", "sim", "--set", "service.type=ClusterIP")
    assert result.status == 7
    assert "is of the type ClusterIP" in result.told
