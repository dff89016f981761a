"""strict: what a provider would refuse is left out, and nothing else is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.wire.strict import with_limit_as, without_foreign_state
from tests.support.nouns import chat_request

ASK = {"role": "user", "content": "é?"}


def sent(request: Any) -> Any:
    """Return a request's body, whose spans must be right."""
    body = json.loads(request.body)
    assert {name: json.loads(request.body[a:b]) for name, (a, b) in request.spans.items()} == body
    return body


def test_foreign_state_is_left_out_and_told() -> None:
    """Signatures of Anthropic and Google stay behind, the turns they belong to do not."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1.50}'}}
    signed = {"role": "assistant", "content": "Hm", "thinking_blocks": [{"type": "thinking", "signature": "s"}]}
    called = {"role": "assistant", "content": None, "tool_calls": [{**call, "extra_content": {"google": {}}}]}
    changed = without_foreign_state(chat_request(messages=[ASK, signed, called], odd=1))
    assert changed.changes == ("messages.thinking_blocks dropped", "messages.tool_calls.extra_content dropped")
    turns = [ASK, {"role": "assistant", "content": "Hm"}, {**called, "tool_calls": [call]}]
    assert sent(changed)["messages"] == turns
    assert sent(changed)["odd"] == 1


def test_request_without_foreign_state_stays_itself() -> None:
    """The words alone, in a text, are nobody's state."""
    for content in ("plain", "say thinking_blocks and extra_content"):
        request = chat_request(messages=[{"role": "user", "content": content}])
        assert without_foreign_state(request) is request


@pytest.mark.parametrize(
    ("name", "other"), [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")]
)
def test_limit_is_spelled_as_the_backend_knows_it(name: str, other: str) -> None:
    """The number stays; a request that says both, or neither, does too."""
    given: dict[str, Any] = {other: 7}
    changed = with_limit_as(chat_request(messages=[ASK], seed=1, **given), name)
    assert sent(changed)[name] == 7
    assert other not in sent(changed)
    assert (changed.changes, changed.max_tokens) == ((), 7)
    others: list[dict[str, Any]] = [{}, {"max_tokens": 7, "max_completion_tokens": 7}]
    for fields in others:
        request = chat_request(messages=[ASK], **fields)
        assert with_limit_as(request, name) is request
