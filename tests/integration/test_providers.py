"""External providers, stubbed with vcr.py: a key alone enables one, and its models answer."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
import vcr

from tests.support.router import LiveRouter, live_router

CASSETTES = Path(__file__).resolve().parents[1] / "cassettes"
KEY = "sk-canary-key-that-must-show-up-nowhere-1234567890"

recorder = vcr.VCR(
    cassette_library_dir=str(CASSETTES),
    record_mode="none",
    ignore_localhost=True,
    match_on=["method", "scheme", "host", "path", "body"],
    filter_headers=["authorization", "x-api-key", "cookie"],
)


async def model_known(router: LiveRouter, model: str) -> None:
    """Wait until discovery has found a model."""
    for _ in range(1000):
        await router.refresh()
        if model in router.services.catalog.current.models:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{model} was not discovered")


async def test_provider_is_enabled_by_its_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EXTERNAL_OPENAI_KEY brings the provider's models, with their prices, streamed and not."""
    monkeypatch.setenv("EXTERNAL_OPENAI_KEY", KEY)
    with recorder.use_cassette("openai_chat.yaml") as cassette:
        async with live_router(tmp_path, transport="httpx") as router:
            await model_known(router, "gpt-4o-mini")
            answer = await router.chat("Say hello.", model="gpt-4o-mini")
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"] == "Hello!"
            assert answer.json()["system_fingerprint"] == "fp_560af6e559"
            # 6 fresh prompt tokens at 0.15, 4 cached ones at 0.075, 2 completion tokens at 0.60 USD a million.
            assert Decimal(answer.headers["x-router-cost-usd"]) == Decimal("0.0000024")
            streamed = await router.chat("Say hello.", model="gpt-4o-mini", stream=True)
            assert "Hello!" in streamed.text
            assert '"usage":{' not in streamed.text
            assert KEY not in answer.text + streamed.text + str(answer.headers)
        assert cassette.play_count >= 3
    assert not holding_the_key(tmp_path)
    assert not holding_the_key(CASSETTES)


def holding_the_key(folder: Path) -> list[Path]:
    """Return the files below a folder that hold the key."""
    return [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
