"""Every client's base call, its stream, and what else it is used for, each through the live router.

What a step must print is written beside it; the upstream is the actor, whose answers are in
`tests/support/actor`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.clients.driving import KEY, driving
from tests.support.actor.mind import CITY, TEXT

PERSON = {"name": CITY, "age": 7}
WEATHER = {"city": CITY, "days": 7}
THEN = f"The tool said: sun in {CITY} for 7 days"
WRITTEN = f'{{"city" : "{CITY}","days" : 7}}'
VECTORS = [[0.0, 0.25, -1.5, 3.0], [1.0, 0.25, -1.5, 3.0]]

OPENAI: dict[str, Any] = {
    "chat": {"text": TEXT, "finish": "stop", "fingerprint": "fp_1"},
    "stream": {"text": TEXT, "finish": ["stop"], "total": [16], "ids": 1},
    "stream_without_usage": {"usage": [], "empty": []},
    "tools": {
        "whole": [["call_0abc", "one", WRITTEN], ["call_1abc", "two", WRITTEN]],
        "streamed": [["call_0abc", "one", WRITTEN], ["call_1abc", "two", WRITTEN]],
        "done": [WRITTEN, WRITTEN],
        "then": "The tool said: sun ☀",
    },
    "structured": PERSON,
    "completions": {"text": TEXT, "streamed": TEXT, "total": [7]},
    "embeddings": {"decoded": VECTORS, "floats": [[0.0, 0.25]], "tokens": 2},
    "models": {"one": "m"},
    "errors": {
        "400": ["BadRequestError", "code_400", True],
        "404": ["NotFoundError", "code_404", True],
        "model": ["NotFoundError", "model_not_found", True],
    },
    "break_off": {"error": "APIError", "text": TEXT[:5]},
}
RESPONSES: dict[str, Any] = {
    "responses": {"text": TEXT, "total": 16, "status": "completed"},
    "responses_stream": {
        "text": TEXT,
        "final": TEXT,
        "ordered": True,
        "first": "response.created",
        "last": "response.completed",
    },
    "responses_tools": {"name": "weather", "arguments": WRITTEN, "done": WRITTEN, "then": "The tool said: sun ☀"},
    "responses_structured": PERSON,
}
ANTHROPIC: dict[str, Any] = {
    "messages": {"text": TEXT, "stop": "end_turn", "usage": [8, 3, 5], "request_id": True},
    "stream": {"text": TEXT, "final": TEXT, "stop": "end_turn", "out": 5},
    "tools": {
        "stop": "tool_use",
        "input": WEATHER,
        "streamed": WEATHER,
        "same_name": True,
        "then": "The tool said: sun ☀",
    },
    "errors": {
        "400": ["BadRequestError", 400, "error", "invalid_request_error"],
        "404": ["NotFoundError", 404, "error", "not_found_error"],
        "429": ["RateLimitError", 429, "error", "rate_limit_error"],
        "model": ["NotFoundError", 404, "error", "not_found_error"],
    },
    "break_off": {"error": True, "text": TEXT[:5]},
    "beta": {"text": TEXT},
}
BOTH = {"text": TEXT, "streamed": TEXT}
AGENTS = {**BOTH, "events": True, "then": THEN, "total": 16}

CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("openai", "openai_python.py", "m", {**OPENAI, **RESPONSES}),
    ("openai", "openai_python.py", "native", RESPONSES),
    ("openai", "openai_python.py", "claude", {step: OPENAI[step] for step in ("stream_without_usage", "structured")}),
    ("openai", "openai_python.py", "claude", {"chat": {"text": TEXT, "finish": "stop"}}),
    ("openai", "openai_python.py", "claude", {"stream": {"text": TEXT, "finish": ["stop"], "total": [16], "ids": 1}}),
    ("anthropic", "anthropic_python.py", "claude", {**ANTHROPIC, "count": 2095}),
    ("anthropic", "anthropic_python.py", "m", ANTHROPIC),
    (
        "langchain",
        "langchain_python.py",
        "m",
        {
            "chat": {"text": TEXT, "finish": "stop"},
            "stream": {"text": TEXT, "total": [16]},
            "tools": {"name": "weather", "args": WEATHER, "streamed": WEATHER, "then": THEN},
            "structured": {"schema": PERSON, "function": PERSON, "json": PERSON},
            "embeddings": {"vectors": VECTORS},
            "responses": BOTH,
        },
    ),
    (
        "pydantic-ai",
        "pydantic_ai_python.py",
        "m",
        {
            "chat": {"text": TEXT, "usage": [11, 5]},
            "stream": {"text": TEXT, "out": 5},
            "tools": {"text": THEN},
            "structured": PERSON,
            "responses": BOTH,
            "messages": BOTH,
        },
    ),
    ("pydantic-ai", "pydantic_ai_python.py", "native", {"responses": BOTH}),
    ("pydantic-ai", "pydantic_ai_python.py", "claude", {"messages": BOTH, "tools": {"text": THEN}}),
    ("instructor", "instructor_python.py", "m", {"tools": PERSON, "json": PERSON, "stream": PERSON}),
    ("openai-agents", "openai_agents_python.py", "m", {"chat": AGENTS, "responses": AGENTS}),
    ("openai-agents", "openai_agents_python.py", "native", {"responses": AGENTS}),
    (
        "llama-index",
        "llama_index_python.py",
        "m",
        {"chat": {"text": TEXT, "completed": TEXT}, "stream": {"text": TEXT}, "tools": {"told": THEN[15:]}},
    ),
    (
        "llm",
        "llm_python.py",
        "m",
        {
            "chat": {"text": TEXT, "usage": [11, 5]},
            "stream": {"text": TEXT, "usage": [11, 5]},
            "structured": {"text": f'{{"name": "{CITY}", "age": 7}}'},
            "tools": {"text": THEN},
        },
    ),
    (
        "openai-node",
        "openai_node.mjs",
        "m",
        {
            "chat": {"text": TEXT, "total": 16},
            "stream": {"text": TEXT, "totals": [16]},
            "tools": {"text": THEN},
            "structured": PERSON,
            "embeddings": VECTORS,
            "responses": {**BOTH, "last": "response.completed"},
            "errors": {"400": ["BadRequestError", "code_400", True], "404": ["NotFoundError", "code_404", True]},
            "break_off": {"error": True, "text": TEXT[:5]},
        },
    ),
    ("openai-node", "openai_node.mjs", "native", {"responses": {**BOTH, "last": "response.completed"}}),
    (
        "anthropic-node",
        "anthropic_node.mjs",
        "claude",
        {
            "messages": {"text": TEXT, "stop": "end_turn", "request_id": True},
            "stream": {"text": TEXT, "stop": "end_turn", "out": 5},
            "tools": {"input": WEATHER, "stop": "tool_use"},
            "count": 2095,
            "errors": {step: ANTHROPIC["errors"][step] for step in ("400", "404", "429")},
        },
    ),
    (
        "vercel",
        "vercel.mjs",
        "m",
        {
            **{step: {**BOTH, "finish": "stop"} for step in ("compatible", "chat", "responses", "messages")},
            "tools": {"text": THEN},
            "structured": PERSON,
            "embeddings": VECTORS,
            "break_off": {"error": True},
        },
    ),
    ("vercel", "vercel.mjs", "native", {"responses": BOTH}),
    ("vercel", "vercel.mjs", "claude", {"messages": BOTH, "compatible": BOTH}),
    (
        "langchainjs",
        "langchainjs.mjs",
        "m",
        {
            "chat": {"text": TEXT, "total": 16},
            "stream": {"text": TEXT, "total": 16},
            "tools": {"name": "weather", "args": WEATHER},
            "structured": PERSON,
            "embeddings": VECTORS,
        },
    ),
]
STEPS = [
    pytest.param(client, program, model, step, expected, id=f"{client}-{model}-{step}")
    for client, program, model, steps in CASES
    for step, expected in steps.items()
]
ABORTING = [
    ("openai", "openai_python.py", "m"),
    ("openai-node", "openai_node.mjs", "m"),
    ("anthropic", "anthropic_python.py", "claude"),
    ("anthropic", "anthropic_python.py", "m"),
]


@pytest.mark.parametrize(("client", "program", "model", "step", "expected"), STEPS)
async def test_client_gets_what_it_came_for(
    tmp_path: Path, client: str, program: str, model: str, step: str, expected: Any
) -> None:
    """A step prints what it should, and the client's key never reaches the upstream."""
    async with driving(client, tmp_path) as driven:
        told = await driven.does(program, step, model)
        if isinstance(expected, dict):
            assert {name: told.get(name) for name in expected} == expected
        else:
            assert told == expected
        assert step == "models" or driven.upstream.requests
        assert not any(KEY in str(request.headers) for request in driven.upstream.requests)


@pytest.mark.parametrize(("client", "program", "model"), ABORTING)
async def test_client_that_breaks_off_ends_the_upstreams_work(
    tmp_path: Path, client: str, program: str, model: str
) -> None:
    """A client that leaves its stream closes the exchange behind the router."""
    async with driving(client, tmp_path) as driven:
        assert await driven.does(program, "abort", model) == {"aborted": True}
        await asyncio.wait_for(driven.upstream.requests[-1].closed_early.wait(), 10)
