"""Tests of `/v1/models` against a real agent."""

from __future__ import annotations

import httpx

from tests.support.agent import MODEL


def test_models_lists_what_is_served(client: httpx.Client) -> None:
    """The one entry says all that a router needs to know."""
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    (entry,) = body["data"]
    assert entry["id"] == MODEL
    assert (entry["object"], entry["owned_by"]) == ("model", "local_agent")
    assert (entry["context_length"], entry["max_output_tokens"]) == (8192, 8191)
    assert entry["capabilities"] == ["chat", "completions", "messages", "prefill"]
    assert entry["default"] is True
    assert entry["loaded"] is True
    assert isinstance(entry["created"], int)


def test_models_get_one(client: httpx.Client) -> None:
    """One model by its id; another is OpenAI's 404."""
    assert client.get(f"/v1/models/{MODEL}").json()["id"] == MODEL
    missing = client.get("/v1/models/org/other")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"
    assert "org/other" in missing.json()["error"]["message"]
