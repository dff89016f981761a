"""Tests of loading an engine, and of what is served when that cannot be."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from local_agent.engine.load import Engine, load_engine, with_defaults
from local_agent.models import EMBEDDED_MODEL, GIB, HubSource, ModelSpec, find
from local_agent.types import Configure, Phase, Sampling
from tests.support.agent import agent_cache

UNREACHABLE = ModelSpec("far-away", (HubSource("org/far-away"),), 128, GIB, ("cpu",))


def load(model: str, **more: Any) -> tuple[Engine, list[Phase]]:
    """Load a model on the CPU; return the engine and the phases on the way."""
    configure = Configure(
        model=model,
        cache_dir=str(agent_cache()),
        device="cpu",
        threads=1,
        max_running=1,
        log_level="INFO",
        hub_endpoint="http://127.0.0.1:1",
        **more,
    )
    phases: list[Phase] = []
    engine = load_engine(configure, lambda phase, *_: phases.append(phase), (UNREACHABLE, find(EMBEDDED_MODEL)))
    return engine, phases


def test_load_engine_serves_the_embedded_model_where_weights_cannot_be_had(caplog: pytest.LogCaptureFixture) -> None:
    """A failed download falls back to the embedded model, and one log line and the model say why."""
    with caplog.at_level(logging.WARNING, "local_agent.engine.load"):
        engine, phases = load("far-away")
    assert engine.model.id == EMBEDDED_MODEL
    assert engine.model.fallback_reason is not None
    assert "far-away could not be downloaded: org/far-away: " in engine.model.fallback_reason
    assert phases[0] is Phase.DOWNLOADING
    assert phases[-1] is Phase.LOADING
    (line,) = [record.getMessage() for record in caplog.records if record.name == "local_agent.engine.load"]
    assert "instead of far-away" in line


def test_load_engine_is_silent_about_the_model_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """The embedded model, asked for by name, is no fallback; a shorter context is obeyed."""
    with caplog.at_level(logging.WARNING):
        engine, _ = load(EMBEDDED_MODEL, context_length=100)
    assert (engine.model.fallback_reason, engine.model.context_length) == (None, 100)
    assert engine.token_budget >= 100
    assert not caplog.records


def test_load_engine_obeys_the_supervisor(caplog: pytest.LogCaptureFixture) -> None:
    """A supervisor that has seen a model kill its worker twice gets the embedded one."""
    engine, _ = load("far-away", use_embedded="it died twice")
    assert (engine.model.id, engine.model.fallback_reason) == (EMBEDDED_MODEL, "it died twice")


def test_with_defaults_fills_in_what_the_request_leaves_open() -> None:
    """The model's own sampling holds where the request says nothing, and only there."""
    spec = find(EMBEDDED_MODEL)
    filled = with_defaults(Sampling(temperature=0.7), spec)
    assert (filled.temperature, filled.top_p, filled.top_k) == (0.7, 0.9, 40)
    asked = with_defaults(Sampling(top_p=1.0, top_k=0), spec)
    assert (asked.top_p, asked.top_k) == (1.0, 0)
