"""Tests of the agent's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from local_agent.settings import AgentSettings, worker_environment


def test_settings_defaults_are_the_documented_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment the agent is where the documentation says it is."""
    for name in ("HOST", "PORT", "MODEL", "CACHE_DIR"):
        monkeypatch.delenv(f"LOCAL_AGENT_{name}", raising=False)
    settings = AgentSettings()
    assert (settings.host, settings.port, settings.model) == ("127.0.0.1", 5000, "local_mistral-7b-instruct-q4")
    assert settings.cache_dir == Path.home() / ".cache/inference-router"


def test_settings_every_field_is_described() -> None:
    """The reference page is made of the descriptions."""
    for name, field in AgentSettings.model_fields.items():
        assert field.description, name


def test_settings_token_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A printed settings object holds no secret."""
    monkeypatch.setenv("LOCAL_AGENT_TOKEN", "very-secret-token")
    assert "very-secret-token" not in repr(AgentSettings())


def test_settings_are_frozen() -> None:
    """Nobody changes a setting at run time."""
    with pytest.raises(ValidationError):
        AgentSettings().port = 1  # type: ignore[misc]


def test_worker_environment_keeps_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own allocator limit wins over ours."""
    monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "0.5")
    environment = worker_environment()
    assert environment["PYTORCH_MPS_HIGH_WATERMARK_RATIO"] == "0.5"
    assert environment["PYTORCH_MPS_LOW_WATERMARK_RATIO"] == "0.8"
