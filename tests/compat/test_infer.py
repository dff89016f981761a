"""A local agent that speaks only `/infer`: the OpenAI SDK cannot tell."""

from __future__ import annotations

from pathlib import Path

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.support.sdk import world
from tests.support.upstream import ScriptedReply, SeenRequest

MANIFEST = """
backends: [{name: mac, dialect: local_agent, base_url: 'URL0', tier: local}]
models: [{id: m, deployments: [{backend: mac}]}]
"""
WORDS = ["Grüße", ", 世界", " 🌍"]


async def infer(request: SeenRequest, reply: ScriptedReply) -> None:
    """Answer as an agent does."""
    usage = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    if not request.json["stream"]:
        await reply.json({"text": "".join(WORDS), "model": "x", "finish_reason": "stop", "usage": usage})
        return
    await reply.start_stream()
    for word in WORDS:
        await reply.event({"text": word})
    await reply.event({"text": "", "done": True, "finish_reason": "stop", "usage": usage})
    await reply.event("[DONE]")
    await reply.end_stream()


async def test_agent_answers_the_sdk(tmp_path: Path) -> None:
    """Whole and streamed, in OpenAI's shape, with all its keys."""
    async with world(tmp_path, infer, manifest=MANIFEST) as there:
        answer = await there.ask(max_tokens=9)
        assert answer.choices[0].message.content == "".join(WORDS)
        assert answer.usage.total_tokens == 7
        raw = (await there.router.chat()).json()
        ChatCompletion.model_validate(raw)
        assert "logprobs" in raw["choices"][0]
        assert "refusal" in raw["choices"][0]["message"]
        chunks = await there.stream(stream_options={"include_usage": True})
        for part in chunks:
            ChatCompletionChunk.model_validate(part.to_dict())
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(part.choices[0].delta.content or "" for part in chunks if part.choices) == "".join(WORDS)
        assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 7)
