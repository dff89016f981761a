"""What is recorded: every shape of answer that the router meets at the entrance of a cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from scripts.vllm.entrance import Entrance, entrance
from scripts.vllm.exchange import Ask, Exchange, converse
from scripts.vllm.processes import ADAPTER, LORA, MODEL, Engine, engine
from tests.support.picker import Refusal
from tests.support.process import free_port
from tests.support.waiting import eventually

__all__ = ["ABOUT", "GROUPS", "chat", "play"]

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hi"}]
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

ABOUT: Mapping[str, str] = {
    "models": "The models: the context that is in force, and an adapter with its parent and no context of its own.",
    "models_fitted": "The models of a worker that fits the context to its memory (`--max-model-len auto`).",
    "chat": "A chat.",
    "chat_adapter": "A chat with an adapter.",
    "chat_stream": "A streamed chat.",
    "chat_stream_usage": "A streamed chat with its usage.",
    "chat_cut_to_length": "A chat that ends at its limit.",
    "chat_continued": "A chat that continues the text of its last message.",
    "completion": "A completion of the old kind.",
    "completion_stream": "A streamed one, with its usage.",
    "messages": "A message of Anthropic's kind.",
    "prompt_too_long": "A prompt that is longer than the context.",
    "prompt_too_long_stream": "The same of a streamed chat.",
    "prompt_far_too_long": "A prompt whose characters alone tell that it is too long: another field is blamed.",
    "answer_too_long": "A limit of the answer that is longer than the context.",
    "unknown_model": "A model that nobody serves.",
    "bad_value": "A value that the worker does not take.",
    "bad_type": "A value of the wrong type.",
    "no_such_path": "A path that the worker does not have.",
    "queue_full": "A worker whose queue is full (`--max-num-queued-reqs`).",
    "worker_stopped_stream": "A worker that is told to stop amid a stream: an error event, and then `[DONE]`.",
    "worker_stopped_whole": "The same of an answer that is not streamed.",
    "worker_aborted_stream": "A worker that is told to stop amid a stream, at another moment: the reason is `abort`.",
    "worker_aborted_whole": "The same of an answer that is not streamed: success, but for its reason.",
    "worker_drained_stream": "A worker that is told to stop, and gives running answers time (`--shutdown-timeout`).",
    "worker_draining": "A request to a worker that only finishes what it has begun.",
    "worker_killed_stream": "A worker that is killed amid a stream: the chunked body breaks off.",
    "worker_killed_whole": "A worker that is killed before it has answered.",
    "engine_killed_stream": "A worker whose engine is killed amid a stream, while its HTTP server lives on.",
    "engine_killed_whole": "The same of an answer that is not streamed.",
    "entrance_killed_stream": "An entrance that is killed amid a stream.",
    "entrance_no_workers": "An entrance that knows no worker (its endpoint picker is away too).",
    "entrance_refused": "An entrance whose worker takes no connections.",
    "entrance_timeout": "An entrance whose worker takes longer than its route allows (`router.proxy.streamTimeout`).",
    "entrance_picker_away": "An entrance that refuses without its endpoint picker (`failureMode: FailClose`).",
    "picker_saturated": "An endpoint picker whose queue is full.",
    "picker_saturated_unnamed": "One without flow control: no reason is given.",
    "picker_waited_too_long": "An endpoint picker in whose queue a request waited too long.",
    "picker_no_endpoints": "An endpoint picker that knows no worker.",
    "picker_no_endpoints_waited": "One in whose queue a request waited for a worker, too long.",
    "picker_shutting_down": "An endpoint picker that is told to stop.",
    "picker_evicted": "An endpoint picker that takes a worker from a request that can be dropped.",
    "picker_evicted_stream": "The same of an answer that has begun: it breaks off, and no reason reaches the client.",
    "picker_failed": "An endpoint picker that fails.",
    "picker_saturated_json": "An endpoint picker after v0.10.0, which refuses in JSON.",
}
"""Name of a recording to what it shows."""


def chat(model: str = MODEL, **fields: Any) -> Ask:
    """Return a chat request; its id is in the answer's."""
    return Ask(CHAT, {"model": model, "messages": HELLO, **fields}, {"x-request-id": "recorded"})


Scene = tuple[str, Ask]
_OF_A_WORKER: tuple[Scene, ...] = (
    ("models", Ask("/v1/models")),
    ("chat", chat()),
    ("chat_adapter", chat(ADAPTER)),
    ("chat_stream", chat(stream=True)),
    ("chat_stream_usage", chat(**USAGE)),
    ("chat_cut_to_length", chat(max_tokens=5)),
    (
        "chat_continued",
        chat(
            messages=[*HELLO, {"role": "assistant", "content": "Once upon a time"}],
            continue_final_message=True,
            add_generation_prompt=False,
        ),
    ),
    ("completion", Ask("/v1/completions", {"model": MODEL, "prompt": "Once upon", "max_tokens": 8})),
    ("completion_stream", Ask("/v1/completions", {"model": MODEL, "prompt": "Once upon", "max_tokens": 8, **USAGE})),
    ("messages", Ask("/v1/messages", {"model": MODEL, "max_tokens": 8, "messages": HELLO})),
    ("prompt_too_long", chat(messages=[{"role": "user", "content": "Once upon a time " * 1000}])),
    ("prompt_too_long_stream", chat(messages=[{"role": "user", "content": "Once upon a time " * 1000}], **USAGE)),
    ("prompt_far_too_long", chat(messages=[{"role": "user", "content": "Once upon a time " * 4000}])),
    ("answer_too_long", chat(max_tokens=9999)),
    ("unknown_model", chat("nobody")),
    ("bad_value", chat(min_p=7)),
    ("bad_type", chat(top_k="many")),
    ("no_such_path", Ask("/v1/audio/speech", {"model": MODEL, "input": "Hi"})),
)
_LONGEST: dict[str, Any] = {"max_tokens": 4000, "ignore_eos": True}
"""Makes an answer of some seconds: the model starts its sentence over and over."""
_GRACE = 30
"""Seconds that a worker has to stop."""
_REASON = "x-llm-d-request-dropped-reason"


def _refusal(status: int, text: str, reason: str | None = None) -> Refusal:
    """Return what llm-d's picker of v0.10.0 refuses with."""
    return Refusal(status, f"inference error: {text}".encode(), {} if reason is None else {_REASON: reason})


_JSON = {"error": {"message": "system saturated", "type": "rate_limit_error", "code": 429}}
_REFUSALS: Mapping[str, Refusal] = {
    "picker_saturated": _refusal(429, "ResourceExhausted - request rejected: system saturated", "rejected-saturated"),
    "picker_saturated_unnamed": _refusal(429, "ResourceExhausted - system saturated, sheddable request dropped"),
    "picker_waited_too_long": _refusal(429, "ResourceExhausted - request timed out in queue", "rejected-ttl-expired"),
    "picker_no_endpoints": _refusal(503, "ServiceUnavailable - no endpoints available", "rejected-no-endpoints"),
    "picker_no_endpoints_waited": _refusal(
        503, "ServiceUnavailable - request timed out in queue: no endpoints", "rejected-ttl-expired"
    ),
    "picker_shutting_down": _refusal(503, "ServiceUnavailable - shutting down", "rejected-shutting-down"),
    "picker_evicted": Refusal(429, b"request evicted by flow control", {_REASON: "evicted"}),
    "picker_failed": _refusal(500, "Internal - no endpoints to serve the request"),
    "picker_saturated_json": Refusal(
        429, json.dumps(_JSON).encode(), {"content-type": "application/json", _REASON: "rejected-saturated"}
    ),
}
"""The words behind the code vary; status, reason and form are those of its source."""

Told = AsyncIterator[tuple[str, Exchange]]


@asynccontextmanager
async def _serving(folder: Path, *arguments: str) -> AsyncIterator[tuple[Engine, Entrance]]:
    """Run a worker with an entrance in front of it."""
    start = engine(folder, *arguments)
    worker = await asyncio.to_thread(start.__enter__)
    try:
        async with entrance(worker.port) as door:
            yield worker, door
    finally:
        await asyncio.to_thread(start.__exit__, None, None, None)


async def play(folder: Path, *groups: str) -> Told:
    """Yield every recording: its name, and what came over the wire.

    Args:
        folder: Where logs go.
        groups: Names of `GROUPS`; all by default.
    """
    for name, group in GROUPS.items():
        if not groups or name in groups:
            async for told in group(folder):
                yield told


async def _well(folder: Path) -> Told:
    """A worker through its life: well, full, told to stop."""
    async with _serving(folder, *LORA, "--max-num-seqs", "2", "--max-num-queued-reqs", "2") as (worker, door):
        for name, ask in _OF_A_WORKER:
            yield name, await converse(door.port, ask)
        full: list[Exchange] = []

        async def one_more() -> None:
            full.append(await converse(door.port, chat()))

        first = asyncio.create_task(converse(door.port, chat(**_LONGEST)))
        await converse(door.port, chat(**_LONGEST, **USAGE), one_more)
        await first
        yield "queue_full", full[0]

        grace: list[asyncio.TimerHandle] = []

        async def stop() -> None:
            worker.terminate()
            # As a kubelet does: now and then vLLM hangs amid its streams, silent, when it is told to stop.
            grace.append(asyncio.get_running_loop().call_later(_GRACE, worker.kill))

        whole = asyncio.create_task(converse(door.port, chat(**_LONGEST)))
        yield _stopped("stream", await converse(door.port, chat(**_LONGEST, **USAGE), stop))
        yield _stopped("whole", await whole)
        grace[0].cancel()


def _stopped(kind: str, exchange: Exchange) -> tuple[str, Exchange]:
    """Return what a worker says that is told to stop, named by it: which one it is is a matter of milliseconds."""
    way = "aborted" if b'"finish_reason":"abort"' in exchange.body else "stopped"
    if exchange.ends != "whole" or b"disconnect/reset" in exchange.body:
        way = "killed"
    return f"worker_{way}_{kind}", exchange


async def _draining(folder: Path) -> Told:
    """A worker that fits its context to its memory, and gives running answers time."""
    overrides = '{"max_position_embeddings": 4194304}'
    arguments = ("--max-model-len", "auto", "--hf-overrides", overrides, "--shutdown-timeout", "60")
    async with _serving(folder, *arguments) as (worker, door):
        yield "models_fitted", await converse(door.port, Ask("/v1/models"))
        late: list[Exchange] = []

        async def stop() -> None:
            worker.terminate()
            await eventually(lambda: "[shutdown]" in worker.output())
            late.append(await converse(door.port, chat()))

        # One that takes longer keeps the worker up until the late one has come.
        other = asyncio.create_task(converse(door.port, chat(**_LONGEST)))
        brief = chat(**_LONGEST | {"max_tokens": 150}, **USAGE)
        yield "worker_drained_stream", await converse(door.port, brief, stop, after=1)
        await other
        yield "worker_draining", late[0]


async def _killed(folder: Path) -> Told:
    """A worker that is killed."""
    async with _serving(folder) as (worker, door):

        async def kill() -> None:
            worker.kill()

        whole = asyncio.create_task(converse(door.port, chat(**_LONGEST)))
        yield "worker_killed_stream", await converse(door.port, chat(**_LONGEST, **USAGE), kill)
        yield "worker_killed_whole", await whole
        yield "entrance_refused", await converse(door.port, chat())


async def _crashed(folder: Path) -> Told:
    """A worker whose engine is killed; before that, entrances that lose patience, or their lives."""
    async with _serving(folder) as (worker, door):
        async with entrance(worker.port, sets=("router.proxy.streamTimeout=1s",)) as impatient:
            yield "entrance_timeout", await converse(impatient.port, chat(**_LONGEST))

        async def evict() -> None:
            door.refusal = _REFUSALS["picker_evicted"]

        yield "picker_evicted_stream", await converse(door.port, chat(**_LONGEST, **USAGE), evict)
        door.refusal = None
        async with entrance(worker.port) as doomed:

            async def kill_entrance() -> None:
                doomed.envoy.process.kill()

            yield "entrance_killed_stream", await converse(doomed.port, chat(**_LONGEST, **USAGE), kill_entrance)

        async def crash() -> None:
            worker.crash()

        whole = asyncio.create_task(converse(door.port, chat(**_LONGEST)))
        yield "engine_killed_stream", await converse(door.port, chat(**_LONGEST, **USAGE), crash)
        yield "engine_killed_whole", await whole


async def _without_worker(_: Path) -> Told:
    """Entrances that have no worker, or whose picker refuses: they need no vLLM."""
    async with entrance(away=True) as door:
        yield "entrance_no_workers", await converse(door.port, Ask("/v1/models"))
    async with entrance(free_port(), sets=("router.epp.failureMode=FailClose",), away=True) as door:
        yield "entrance_picker_away", await converse(door.port, chat())
    async with entrance() as door:
        for name, refusal in _REFUSALS.items():
            door.refusal = refusal
            yield name, await converse(door.port, chat())


GROUPS: Mapping[str, Callable[[Path], Told]] = {
    "without worker": _without_worker,
    "well": _well,
    "draining": _draining,
    "killed": _killed,
    "crashed": _crashed,
}
"""What one worker after another goes through; each starts its own."""
