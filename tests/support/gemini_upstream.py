"""What a Gemini server sends: whole answers, events, errors, and scripts that send them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.upstream import Script, ScriptedReply, SeenRequest

USAGE = {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}


def candidate(*parts: Any, finish: str | None = "STOP", index: int = 0, **extra: Any) -> dict[str, Any]:
    """Return one candidate; a part that is a string is text."""
    said = [{"text": part} if isinstance(part, str) else part for part in parts]
    told: dict[str, Any] = {"content": {"parts": said, "role": "model"}, "index": index, **extra}
    return told if finish is None else told | {"finishReason": finish}


def answer(*candidates: Mapping[str, Any], usage: Mapping[str, Any] | None = USAGE, **extra: Any) -> dict[str, Any]:
    """Return a whole answer, or one event of a stream."""
    told: dict[str, Any] = {"candidates": list(candidates), "modelVersion": "gemini-3-flash", "responseId": "r"}
    return told | ({} if usage is None else {"usageMetadata": usage}) | extra


def call(name: str, args: Any = None, **extra: Any) -> dict[str, Any]:
    """Return a part that calls a function."""
    return {"functionCall": {"name": name, "args": {} if args is None else args}, **extra}


def error(code: int, status: str, message: str = "told by a script", *details: Mapping[str, Any]) -> dict[str, Any]:
    """Return Google's error body."""
    told: dict[str, Any] = {"code": code, "message": message, "status": status}
    return {"error": told | ({"details": list(details)} if details else {})}


def generates(whole: Any, events: Sequence[Any] = ()) -> Script:
    """Return a script of a Gemini server: a whole answer, or the events of a stream."""

    async def script(request: SeenRequest, reply: ScriptedReply) -> None:
        if request.path.endswith(":streamGenerateContent?alt=sse"):
            await reply.start_stream()
            for event in events:
                await reply.event(event)
            await reply.end_stream()
        elif request.path.endswith(":generateContent"):
            await reply.json(whole)
        else:
            await reply.json(error(404, "NOT_FOUND"), 404)

    return script
