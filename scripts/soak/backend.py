"""A backend that says how long it talks and what goes wrong by what it is asked: `python -m scripts.soak.backend PORT`.

It serves every dialect, each below a path of its own, and plays the acts of the fault matrix. A prompt holds
`soak-words=N` (how many words to say) and may hold `soak-fault=NAME@PLACE` (what to do if asked at that place).
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

from tests.integration.faults.dialects import DIALECTS, PROMPT_TOKENS
from tests.integration.faults.faults import FAULTS
from tests.integration.faults.scenes import Scene
from tests.support.upstream import ScriptedReply, ScriptedUpstream, SeenRequest

__all__ = ["Stage"]

_WORDS = re.compile(rb"soak-words=(\d+)")
_FAULT = re.compile(rb"soak-fault=(\w+)@(\w+)")
_PAUSE = 0.01
_LOOKED_AT = 2048
_USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 5, "total_tokens": PROMPT_TOKENS + 5}


class Stage:
    """Answers requests; `busy` says how many are being answered now."""

    def __init__(self) -> None:
        self.busy = 0
        self.served = 0
        self.upstream = ScriptedUpstream(0)

    async def play(self, request: SeenRequest, reply: ScriptedReply) -> None:
        """Answer one request to `/PLACE/DIALECT/…`, or say at `/busy` how many are under way."""
        self.upstream.requests.clear()
        if request.path == "/busy":
            await reply.json({"busy": self.busy, "served": self.served})
            return
        self.busy += 1
        self.served += 1
        try:
            await self._answer(request, reply)
        finally:
            self.busy -= 1

    async def _answer(self, request: SeenRequest, reply: ScriptedReply) -> None:
        _, place, name, *rest = request.path.split("/")
        # The instructions are the last words of a prompt, and a body may be long.
        told = request.body[:_LOOKED_AT] + request.body[-_LOOKED_AT:]
        count, fault = _WORDS.search(told), _FAULT.search(told)
        words = int(count.group(1)) if count else 4
        if rest[-1] in ("embeddings", "completions") and rest[-2] != "chat":
            await _other(rest[-1], request, reply, words)
            return
        dialect = DIALECTS[name]
        scene = Scene(request, reply, dialect, dialect.streams(request), "", "")
        if fault is not None and fault.group(2).decode() == place:
            await FAULTS[fault.group(1).decode()].act(scene)
            return
        await scene.head()
        if not scene.stream:
            await scene.say(dialect.whole)
        else:
            await scene.say(*dialect.opening)
            for number in range(words):
                await scene.say(dialect.words[number % len(dialect.words)])
                if number % 8 == 7:
                    await asyncio.sleep(_PAUSE)
            await scene.say(*dialect.finish, *filter(None, (dialect.closing,)))
        await reply.end_stream()


async def _other(endpoint: str, request: SeenRequest, reply: ScriptedReply, words: int) -> None:
    """Answer an endpoint that only OpenAI's dialect has."""
    asked: Any = request.json
    if endpoint == "embeddings":
        vector = {"object": "embedding", "index": 0, "embedding": [0.1] * 256}
        await reply.json({"object": "list", "data": [vector], "model": "upstream-model", "usage": _USAGE})
        return
    head = {"id": "cmpl-soak", "object": "text_completion", "created": 1_700_000_000, "model": "upstream-model"}

    def choice(text: str, finish: str | None) -> list[Any]:
        return [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]

    if not asked.get("stream"):
        await reply.json({**head, "choices": choice("one two", "stop"), "usage": _USAGE})
        return
    await reply.start_stream()
    for _ in range(words):
        await reply.event({**head, "choices": choice(" one", None)})
    await reply.event({**head, "choices": choice("", "stop")})
    await reply.event("[DONE]")
    await reply.end_stream()


async def _serve(port: int) -> None:
    stage = Stage()
    stage.upstream.script = stage.play
    server = await asyncio.start_server(stage.upstream.serve, "127.0.0.1", port, limit=64 * 1024 * 1024)
    print(json.dumps({"listening": port}), flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
