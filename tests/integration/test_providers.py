"""External providers, stubbed with vcr.py: a key alone enables one, and its models answer."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from vcr.request import Request

from shared.logs import redact
from tests.support.cassettes import CASSETTES, KEPT_HEADERS, SCENARIOS, Played, Scenario, play, recorder
from tests.support.router import live_router

KEY = "sk-canary-key-that-must-show-up-nowhere-1234567890"
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


async def played(scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    """Play a scenario from its cassette, all of it."""
    monkeypatch.setenv(scenario.key_env, KEY)
    with recorder(scenario).use_cassette(scenario.file) as cassette:
        async with live_router(tmp_path, transport="httpx") as router:
            answers = await play(router, scenario)
        assert cassette.all_played
    assert not holding_the_key(tmp_path)
    return answers


def answered(scenario: Scenario, place: int) -> Any:
    """Return what the provider answered in one exchange of a cassette."""
    cassette = yaml.safe_load((CASSETTES / scenario.file).read_text("utf-8"))
    return json.loads(cassette["interactions"][place]["response"]["body"]["string"])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=BY_NAME)
async def test_provider_is_enabled_by_its_key_alone(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each provider's models answer OpenAI's clients: whole, streamed, with a tool call, and with an error."""
    answers = await played(scenario, tmp_path, monkeypatch)
    assert answers.whole.status_code == 200, answers.whole.text
    choice = answers.whole.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert "hello" in choice["message"]["content"].lower()
    assert Decimal(answers.whole.headers["x-router-cost-usd"]) > 0

    lines = [line.removeprefix("data: ") for line in answers.streamed.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    said = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert "hello" in said.lower()
    assert [finish for event in events if (finish := event["choices"][0]["finish_reason"])] == ["stop"]
    assert not any(event.get("usage") for event in events)

    choice = answers.called.json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"], choice["finish_reason"]) == (
        "function",
        "get_weather",
        "tool_calls",
    )
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}

    assert answers.refused.status_code == 400
    error = answers.refused.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert next(iter(scenario.refused)) in error["message"]
    told = [answers.whole, answers.streamed, answers.called, answers.refused]
    assert not any(KEY in answer.text + str(answer.headers) for answer in told)


async def test_provider_answers_pass_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenAI says arrives as it said it, and its prices count."""
    answers = await played(BY_NAME["openai"], tmp_path, monkeypatch)
    whole = answered(BY_NAME["openai"], 1)
    assert answers.whole.json() == whole
    assert answers.called.json() == answered(BY_NAME["openai"], 3)
    assert answers.refused.json() == answered(BY_NAME["openai"], 4)
    # USD a million: 0.15 for fresh prompt tokens, 0.075 for cached ones, 0.60 for completion tokens.
    usage = whole["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    cost = (usage["prompt_tokens"] - cached) * Decimal("0.15") + cached * Decimal("0.075")
    cost += usage["completion_tokens"] * Decimal("0.60")
    assert Decimal(answers.whole.headers["x-router-cost-usd"]) == cost / 1_000_000


async def test_google_bills_thoughts_and_keeps_signatures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens thought count as output; a call's signature is there for the client to send back."""
    answers = await played(BY_NAME["google"], tmp_path, monkeypatch)
    usage, told = answers.whole.json()["usage"], answered(BY_NAME["google"], 1)["usageMetadata"]
    thoughts = told["thoughtsTokenCount"]
    assert usage["prompt_tokens"] == told["promptTokenCount"]
    assert usage["completion_tokens"] == told["candidatesTokenCount"] + thoughts
    assert usage["completion_tokens_details"]["reasoning_tokens"] == thoughts
    (call,) = answers.called.json()["choices"][0]["message"]["tool_calls"]
    (part,) = answered(BY_NAME["google"], 3)["candidates"][0]["content"]["parts"]
    assert call["extra_content"]["google"]["thought_signature"] == part["thoughtSignature"]


def holding_the_key(folder: Path) -> list[Path]:
    """Return the files below a folder that hold the key."""
    return [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_cassettes_are_those_of_the_scenarios() -> None:
    """Each has its scenario, says where it comes from, and holds the model that counts alone."""
    assert {path.name for path in CASSETTES.glob("*.yaml")} == {scenario.file for scenario in SCENARIOS}
    for scenario in SCENARIOS:
        first = (CASSETTES / scenario.file).read_text("utf-8").partition("\n")[0]
        assert re.fullmatch(r"# (Made from the provider's published shapes, not recorded: .*|Recorded with .*)", first)


@pytest.mark.parametrize("path", sorted(CASSETTES.glob("*.yaml")), ids=lambda path: path.name)
def test_cassettes_hold_no_secret(path: Path) -> None:
    """No key, nothing that looks like one, and no header that names an account."""
    text = path.read_text("utf-8")
    assert redact(text) == text
    assert not re.search(r"sk-[\w-]{8}|AIza[\w-]{8}|key=", text)
    allowed = {"content-type", "retry-after"} & set(KEPT_HEADERS)
    for headers in re.findall(r"^    headers:(.*(?:\n {6}.*)*)", text, re.MULTILINE):
        assert set(re.findall(r"^ {6}(\S+):", headers, re.MULTILINE)) <= allowed
    assert set(re.findall(r"^    headers: (.*)$", text, re.MULTILINE)) <= {"{}"}


def test_recording_leaves_out_what_names_an_account() -> None:
    """The recorder keeps no header of a request, few of an answer, no key anywhere, and one model of a list."""
    scenario = BY_NAME["google"]
    chosen = recorder(scenario, "all", KEY)
    request = chosen.before_record_request(Request("GET", f"https://h/v1?key={KEY}", b"", {"authorization": KEY}))
    assert (dict(request.headers), request.uri) == ({}, "https://h/v1?key=KEY")
    models = [{"name": "models/gemini-2.5-flash"}, {"name": "models/other"}]
    body = json.dumps({"models": models, "nextPageToken": "x", "of": KEY}).encode()
    headers = {"Content-Type": ["application/json"], "Set-Cookie": ["a=b"], "openai-organization": ["me"]}
    kept = chosen.before_record_response({"status": {"code": 200}, "headers": headers, "body": {"string": body}})
    assert kept["headers"] == {"content-type": ["application/json"]}
    assert json.loads(kept["body"]["string"]) == {"models": models[:1]}
    said = {"status": {"code": 200}, "headers": {}, "body": {"string": f"data: {KEY}".encode()}}
    assert chosen.before_record_response(said)["body"]["string"] == b"data: KEY"
