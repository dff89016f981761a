"""Tests of prompt rendering."""

from __future__ import annotations

import pytest

from local_agent.prompts import ChatTemplate, flatten, normalize
from shared.errors import InvalidRequest

STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


def test_normalize_joins_text_parts_and_renames_developer() -> None:
    """Content parts become one string and `developer` becomes `system`."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert normalize([{"role": "developer", "content": parts}]) == [{"role": "system", "content": "ab"}]


def test_normalize_keeps_tool_calls_as_text() -> None:
    """A turn of tool calls does not vanish from the conversation."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    (turn,) = normalize([{"role": "assistant", "tool_calls": [call]}])
    assert '"name": "f"' in turn["content"]


def test_flatten_alternates_whatever_comes() -> None:
    """System, tool and repeated turns become strictly alternating ones."""
    turns = [
        {"role": "assistant", "content": "hello"},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "a"},
    ]
    flat = flatten(turns)
    assert [turn["role"] for turn in flat] == ["user", "assistant", "user", "assistant"]
    assert "be brief" in flat[2]["content"]
    assert "42" in flat[2]["content"]


def test_template_falls_back_to_flattened_turns() -> None:
    """A template that refuses a system turn gets it inside the user's."""
    template = ChatTemplate(STRICT, {})
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert template.render(turns) == "<user>be brief\n\nhi"


def test_template_refusal_is_the_callers_error() -> None:
    """What no form of the conversation satisfies is a 400 that names `messages`."""
    template = ChatTemplate("{{ raise_exception('never') }}", {})
    with pytest.raises(InvalidRequest, match="never") as caught:
        template.render([{"role": "user", "content": "hi"}])
    assert caught.value.param == "messages"


def test_template_cannot_reach_python() -> None:
    """A template of a downloaded model runs in a sandbox."""
    template = ChatTemplate("{{ messages.__class__.__mro__ }}", {})
    with pytest.raises(InvalidRequest):
        template.render([{"role": "user", "content": "hi"}])
