"""The command-line tools that people point at a router: Codex and Claude Code, as they come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.driving import KEY, Driven, driving
from tests.support.actor.mind import TEXT


async def _codex(driven: Driven, model: str) -> str:
    """Ask Codex once, without a terminal; return what it printed, a JSON object a line."""
    provider = f'{{name="router",base_url="{driven.url}/v1",env_key="CLIENT_KEY",wire_api="responses"}}'
    command = [str(driven.client.folder / "node_modules" / ".bin" / "codex"), "exec", "--skip-git-repo-check", "--json"]
    options = ["-s", "read-only", "-m", model, "-c", 'model_provider="router"']
    options += ["-c", f"model_providers.router={provider}"]
    return await driven.runs([*command, *options, "Say hello."], {"CLIENT_KEY": KEY, "CODEX_HOME": str(driven.home)})


async def _claude(driven: Driven, model: str) -> str:
    """Ask Claude Code once, without a terminal; return its JSON."""
    command = [str(driven.client.folder / "node_modules" / ".bin" / "claude"), "-p", "--output-format", "json"]
    where = {
        "ANTHROPIC_BASE_URL": driven.url,
        "ANTHROPIC_API_KEY": KEY,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
    }
    return await driven.runs([*command, "--model", model, "Say hello."], where)


@pytest.mark.parametrize("model", ["native", "m"])
async def test_codex_answers(tmp_path: Path, model: str) -> None:
    """Codex gets its answer, where the backend speaks responses and where it speaks chat alone."""
    async with driving("codex", tmp_path) as driven:
        told = [json.loads(line) for line in (await _codex(driven, model)).splitlines()]
        items = [item["item"] for item in told if item["type"] == "item.completed"]
        assert [item["text"] for item in items if item["type"] == "agent_message"] == [TEXT]
        assert "turn.completed" in [item["type"] for item in told]
        seen = driven.upstream.requests[-1]
        assert KEY not in str(seen.headers)
        if model == "native":
            assert seen.path == "/v1/responses"
            assert {"client_metadata", "prompt_cache_key", "include", "tools"} <= set(seen.json)


@pytest.mark.parametrize("model", ["claude", "m"])
async def test_claude_code_answers(tmp_path: Path, model: str) -> None:
    """Claude Code gets its answer, from an Anthropic backend and from one that speaks OpenAI's chat."""
    async with driving("claude-code", tmp_path) as driven:
        told = json.loads((await _claude(driven, model)).splitlines()[-1])
        assert told["result"] == TEXT
        assert told["is_error"] is False
        seen = driven.upstream.requests[-1]
        assert KEY not in str(seen.headers)
        if model == "claude":
            assert "claude-code" in seen.headers["anthropic-beta"]
            assert {"system", "tools", "metadata"} <= set(seen.json)
