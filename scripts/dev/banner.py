"""What `make dev` prints once requests can be answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["banner"]


def banner(router_url: str, agent: Mapping[str, Any], router: Mapping[str, Any], seconds: float, keyed: bool) -> str:
    """Return the text.

    Args:
        router_url: The router's address.
        agent: What the agent's `/readyz` says.
        router: What the router's `/readyz` says.
        seconds: How long the start took.
        keyed: Whether the router wants a key.
    """
    key = "your key" if keyed else "unused"
    authorization = " \\\n    -H 'authorization: Bearer <your key>'" if keyed else ""
    lines = [
        "",
        f"  Ready in {seconds:.1f} s. Base URL for any OpenAI SDK:  {router_url}/v1",
        "",
        *_model(agent),
        *_missing(router),
        "",
        "  Try it:",
        f"    curl {router_url}/v1/chat/completions{authorization} \\",
        "    -H 'content-type: application/json' \\",
        """    -d '{"model": "auto", "messages": [{"role": "user", "content": "Say hello."}], "temperature": 0}'""",
        "",
        "  In Python (pip install openai):",
        "    from openai import OpenAI",
        f'    client = OpenAI(base_url="{router_url}/v1", api_key="{key}")',
        '    messages = [{"role": "user", "content": "Say hello."}]',
        '    answer = client.chat.completions.create(model="auto", messages=messages, temperature=0)',
        "    print(answer.choices[0].message.content)",
        "",
        f"  API docs: {router_url}/docs   Logs: .dev/   Ctrl-C stops everything.",
    ]
    if keyed:
        lines.append("  The registry holds keys, so requests need one: .venv/bin/routerctl keys create")
    return "\n".join([*lines, ""])


def _model(agent: Mapping[str, Any]) -> list[str]:
    """Return which model really answers, and why not the one asked for."""
    device = agent.get("device")
    lines = [f"  Model: {agent.get('model') or 'unknown'}" + (f" on {device}" if device else "")]
    reason = agent.get("fallback_reason")
    if reason:
        lines.append(f"  It answers instead of {agent.get('requested_model') or 'the model asked for'}: {reason}")
    return lines


def _missing(router: Mapping[str, Any]) -> list[str]:
    """Return what the router does without."""
    checks = router.get("checks")
    if not isinstance(checks, dict):
        return []
    details = [check.get("detail") for check in checks.values() if isinstance(check, dict)]
    return [f"  Note: {detail}" for detail in details if detail]
