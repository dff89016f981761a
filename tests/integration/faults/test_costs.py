"""Costs: whatever shape a backend tells its usage in, a stream costs what the same whole answer costs."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.router.test_gateway import usage_rows
from tests.support.router import live_router, manifest_for
from tests.support.upstream import Script, ScriptedReply, SeenRequest, chunk, completion, scripted_upstream

_PRICED = "price: {input: 1, cached_input: 0.1, output: 2}"
_PLAIN = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
_CACHED = {
    **_PLAIN,
    "prompt_tokens_details": {"cached_tokens": 800, "cache_write_tokens": 100},
    "completion_tokens_details": {"reasoning_tokens": 30},
}


class Shape(NamedTuple):
    """How a backend tells the usage of a stream.

    Attributes:
        usage: What a whole answer tells.
        events: The stream's events.
    """

    usage: dict[str, Any] | None
    events: tuple[dict[str, Any], ...]


def _words(*between: dict[str, Any] | None) -> tuple[dict[str, Any], ...]:
    """Return three words, each with a usage of its own or none."""
    told = between or (None, None, None)
    return tuple(
        chunk({"content": word}, **({} if usage is None else {"usage": usage}))
        for word, usage in zip(("one", " two", " three"), told, strict=True)
    )


def _partial(tokens: int) -> dict[str, Any]:
    return {**_PLAIN, "completion_tokens": tokens, "total_tokens": 1000 + tokens}


_FINISH = chunk({}, "stop")
_SHAPES = {
    "final chunk without choices": Shape(_PLAIN, (*_words(), _FINISH, chunk(None, usage=_PLAIN))),
    "final chunk with a choice": Shape(_PLAIN, (*_words(), chunk({}, "stop", usage=_PLAIN))),
    "cumulative": Shape(_PLAIN, (*_words(_partial(1), _partial(20), _partial(49)), _FINISH, chunk(None, usage=_PLAIN))),
    "cumulative, the last with the finish": Shape(
        _PLAIN, (*_words(_partial(1), _partial(20), _partial(49)), chunk({}, "stop", usage=_PLAIN))
    ),
    "twice": Shape(_PLAIN, (*_words(), chunk({}, "stop", usage=_PLAIN), chunk(None, usage=_PLAIN))),
    "empty between": Shape(_PLAIN, (*_words({}, {}, {}), _FINISH, chunk(None, usage=_PLAIN))),
    "cache read and written": Shape(_CACHED, (*_words(), _FINISH, chunk(None, usage=_CACHED))),
    "cache read, with a choice": Shape(_CACHED, (*_words(), chunk({}, "stop", usage=_CACHED))),
}


def _saying(shape: Shape) -> Script:
    """Return a script that answers whole and streamed, and tells its usage in a shape."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if not request.json.get("stream"):
            whole = completion("one two three")
            del whole["usage"]
            await reply.json(whole if shape.usage is None else {**whole, "usage": shape.usage})
            return
        await reply.start_stream()
        for event in shape.events:
            await reply.event(event)
        await reply.event("[DONE]")
        await reply.end_stream()

    return script


@pytest.mark.parametrize("asked", [True, False], ids=["usage asked", "not asked"])
@pytest.mark.parametrize("shape", _SHAPES.values(), ids=_SHAPES)
async def test_stream_costs_what_the_whole_answer_costs(tmp_path: Path, shape: Shape, asked: bool) -> None:
    """To the token, and to the last digit of the price, whether the client asked for the usage or not."""
    async with scripted_upstream(_saying(shape)) as upstream:
        manifest = manifest_for(upstream.url).replace("price: {input: 1, output: 2}", _PRICED)
        async with live_router(tmp_path, manifest) as router:
            whole = await router.chat()
            streamed = await router.chat(stream=True, **({"stream_options": {"include_usage": True}} if asked else {}))
            rows = await usage_rows(tmp_path, 2)
    counted = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost_usd", "usage_source")
    told, same = ({name: row[name] for name in counted} for row in rows)
    assert told == same
    assert told["usage_source"] == "reported"
    fresh, cached = (200, 800) if shape.usage is _CACHED else (1000, 0)
    cost = (fresh + cached * Decimal("0.1") + 50 * 2) / 1_000_000
    assert Decimal(told["cost_usd"]) == cost
    assert Decimal(whole.headers["x-router-cost-usd"]) == cost
    assert ('"total_tokens"' in streamed.text) is asked


async def test_usage_that_nobody_tells_is_estimated_alike(tmp_path: Path) -> None:
    """Without a count both are estimates that say so, and neither is free."""
    async with scripted_upstream(_saying(Shape(None, (*_words(), _FINISH)))) as upstream:
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            await router.chat("word " * 100)
            await router.chat("word " * 100, stream=True)
            rows = await usage_rows(tmp_path, 2)
    assert [row["usage_source"] for row in rows] == ["estimated", "estimated"]
    assert rows[0]["prompt_tokens"] == rows[1]["prompt_tokens"] == 125
    assert all(row["completion_tokens"] > 0 and Decimal(row["cost_usd"]) > 0 for row in rows)


async def test_stream_that_breaks_costs_what_was_delivered(tmp_path: Path) -> None:
    """A cumulative count that came before the break is what is billed, not nothing and not the whole."""

    async def script(_request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        for event in _words(_partial(1), _partial(2), _partial(3)):
            await reply.event(event)
        reply.cut()

    async with scripted_upstream(script) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        await router.chat(stream=True)
        (row,) = await usage_rows(tmp_path, 1)
    assert row["error"] == "stream_interrupted"
    assert 1 <= row["completion_tokens"] <= 3
    assert row["prompt_tokens"] == 1000
