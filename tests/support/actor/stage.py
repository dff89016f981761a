"""The actor on a port: one script that speaks OpenAI's routes and Anthropic's, as a good upstream would."""

from __future__ import annotations

from tests.support.actor.chat import answer_chat, answer_completions, answer_embeddings
from tests.support.actor.messages import answer_messages, count_tokens
from tests.support.actor.mind import Thought
from tests.support.actor.responses import answer_responses
from tests.support.upstream import ScriptedReply, SeenRequest

MANIFEST = """
backends:
  - {name: openai, dialect: openai, base_url: 'URL0', tier: external, breaker: {enabled: false}}
  - {name: native, dialect: openai, base_url: 'URL0', tier: external, breaker: {enabled: false}, endpoints: [responses]}
  - {name: anthropic, dialect: anthropic, base_url: 'URL0', tier: external, breaker: {enabled: false}}
models:
  - {id: m, aliases: [org/m], deployments: [{backend: openai, upstream_model: up}]}
  - {id: native, deployments: [{backend: native, upstream_model: up}]}
  - {id: claude, deployments: [{backend: anthropic, upstream_model: up-claude}]}
"""
"""`m` speaks chat alone, `native` responses too, `claude` messages; `URL0` is the actor's address."""

_ERRORS = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}


async def act(request: SeenRequest, reply: ScriptedReply) -> None:
    """Answer one request."""
    path = request.path.partition("?")[0].removeprefix("/v1")
    asked = request.json
    thought: Thought | None = None
    if path == "/chat/completions":
        thought = await answer_chat(asked, reply)
    elif path == "/responses":
        thought = await answer_responses(asked, reply)
    elif path == "/messages":
        thought = await answer_messages(asked, reply)
    elif path == "/messages/count_tokens":
        await count_tokens(asked, reply)
    elif path == "/completions":
        await answer_completions(asked, reply)
    elif path == "/embeddings":
        await answer_embeddings(asked, reply)
    else:
        thought = Thought(status=404)
    if thought is not None and thought.status != 200:
        await _refuse(path, thought.status, reply)


async def _refuse(path: str, status: int, reply: ScriptedReply) -> None:
    headers = {"retry-after": "0", "retry-after-ms": "1"} if status == 429 else {}
    kind = _ERRORS.get(status, "api_error")
    if path.startswith("/messages"):
        body = {"type": "error", "error": {"type": kind, "message": f"scripted {status}"}, "request_id": "req_theirs"}
        await reply.json(body, status, headers)
        return
    error = {"message": f"scripted {status}", "type": kind, "param": "messages", "code": f"code_{status}"}
    await reply.json({"error": error}, status, headers)
