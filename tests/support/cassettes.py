"""What is played with each external provider, from its cassette or, to record one, with the provider itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import vcr
from vcr.request import Request

from tests.support.router import LiveRouter

CASSETTES = Path(__file__).resolve().parents[1] / "cassettes"
KEPT_HEADERS = ("content-type", "retry-after")
"""Of an answer's headers: all others name accounts, hosts and moments."""
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Return the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True)
class Scenario:
    """One provider's cassette: the same five exchanges with each.

    Attributes:
        name: The provider's row.
        model: Who is asked; its list of models is cut down to it.
        refused: Fields with which the provider refuses a request.
    """

    name: str
    model: str
    refused: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"temperature": 99}))

    @property
    def key_env(self) -> str:
        """The variable that holds the key."""
        return f"EXTERNAL_{self.name.upper()}_KEY"

    @property
    def file(self) -> str:
        """The cassette's name."""
        return f"{self.name}_chat.yaml"


SCENARIOS = (
    Scenario("openai", "gpt-4o-mini"),
    Scenario("anthropic", "claude-sonnet-4-5-20250929", MappingProxyType({"max_tokens": 10_000_000})),
    Scenario("google", "gemini-2.5-flash"),
)


@dataclass(frozen=True)
class Played:
    """The router's answers to one scenario."""

    whole: httpx.Response
    streamed: httpx.Response
    called: httpx.Response
    refused: httpx.Response


def recorder(scenario: Scenario, mode: str = "none", key: str = "") -> vcr.VCR:
    """Return what plays a scenario's cassette, or records it without the key, or anything that names an account."""

    def request_kept(request: Request) -> Request:
        request.headers = {}
        request.uri = _without(key, request.uri)
        return request

    def response_kept(response: dict[str, Any]) -> dict[str, Any]:
        headers = {name.lower(): value for name, value in response["headers"].items()}
        kept = {name: headers[name] for name in KEPT_HEADERS if name in headers}
        body = _cut_down(response["body"]["string"], scenario.model)
        return response | {"headers": kept, "body": {"string": _without(key, body.decode()).encode()}}

    return vcr.VCR(
        cassette_library_dir=str(CASSETTES),
        record_mode=mode,
        ignore_localhost=True,
        match_on=["method", "scheme", "host", "path", "query", "body"],
        before_record_request=request_kept,
        before_record_response=response_kept,
        decode_compressed_response=True,
    )


def _without(key: str, text: str) -> str:
    return text.replace(key, "KEY") if key else text


def _cut_down(body: bytes, model: str) -> bytes:
    """Return a list of models with the one that counts alone; any other body as it is."""
    try:
        told = json.loads(body)
    except ValueError:
        return body
    for name in ("data", "models") if isinstance(told, dict) else ():
        if isinstance(told.get(name), list):
            kept = [
                item for item in told[name] if str(item.get("id", item.get("name"))).removeprefix("models/") == model
            ]
            return json.dumps({"object": "list", name: kept} if "object" in told else {name: kept}).encode()
    return body


async def play(router: LiveRouter, scenario: Scenario) -> Played:
    """Ask for a text, whole and streamed, for a tool call, and for something that is refused."""
    for _ in range(1000):
        await router.refresh()
        if scenario.model in router.services.catalog.current.models:
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError(f"{scenario.model} was not discovered")
    weather: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required"}
    return Played(
        whole=await router.chat("Say hello.", model=scenario.model),
        streamed=await router.chat("Say hello.", model=scenario.model, stream=True),
        called=await router.chat("What is the weather in Paris?", model=scenario.model, **weather),
        refused=await router.chat("Say hello.", model=scenario.model, **scenario.refused),
    )
