"""Conversations to prompt text, through the model's own chat template. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.errors import InvalidRequest

__all__ = ["ChatTemplate", "flatten", "normalize"]


def normalize(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as chat templates expect them: known roles, content as one string.

    `developer` becomes `system`, text parts are joined, and tool calls of an assistant turn are
    written out as JSON, so that nothing of the conversation is lost on a model without tools.
    """
    result: list[dict[str, Any]] = []
    for message in messages:
        role = "system" if message["role"] == "developer" else message["role"]
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "".join(part["text"] for part in content)
        if calls := message.get("tool_calls"):
            written = json.dumps([call.get("function", call) for call in calls], ensure_ascii=False)
            content = f"{content}\n{written}" if content else written
        result.append({"role": role, "content": content})
    return result


def flatten(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the conversation as strictly alternating user and assistant turns, user first.

    For templates that know nothing else: system text opens the next user turn, tool results become
    user text, neighbours of one role are joined.
    """
    result: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        content = f"Tool result:\n{message['content']}" if message["role"] == "tool" else message["content"]
        if not result and role == "assistant":
            result.append({"role": "user", "content": ""})
        if result and result[-1]["role"] == role:
            result[-1]["content"] = f"{result[-1]['content']}\n\n{content}".strip()
        else:
            result.append({"role": role, "content": content})
    return result


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _now(form: str) -> str:
    return datetime.now(timezone.utc).astimezone().strftime(form)


class ChatTemplate:
    """A model's chat template, compiled once.

    Args:
        source: The Jinja template, as the model's tokenizer carries it.
        tokens: The special tokens that templates name (`bos_token`, `eos_token`, …).
    """

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        self._template = environment.from_string(source)
        self._tokens = dict(tokens)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the prompt that asks for the assistant's next turn.

        Raises:
            InvalidRequest: The template refuses the conversation in any form.
        """
        turns = normalize(messages)
        try:
            return self._render(turns)
        except TemplateError:
            pass
        try:
            return self._render(flatten(turns))
        except TemplateError as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error

    def _render(self, messages: list[dict[str, Any]]) -> str:
        return self._template.render(messages=messages, add_generation_prompt=True, **self._tokens)
