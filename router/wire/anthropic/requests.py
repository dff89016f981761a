"""A chat request as a Messages request, and what it lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from router.types import InferenceRequest
from router.wire.anthropic.thinking import effort_asked, thinking_for
from router.wire.anthropic.turns import Conversation
from router.wire.fields import raw_fields
from shared.errors import InvalidRequest

__all__ = ["DEFAULT_MAX_TOKENS", "messages_request"]

DEFAULT_MAX_TOKENS = 4096
"""The limit of an answer that nobody set a limit for: this dialect demands one."""


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_TRANSLATED = _names(
    "model messages stream stream_options router max_tokens max_completion_tokens stop temperature top_p tools "
    "tool_choice parallel_tool_calls functions function_call response_format reasoning_effort reasoning user "
    "safety_identifier metadata service_tier thinking output_config n"
)
_UNSPEAKABLE = _names(
    "frequency_penalty presence_penalty logit_bias logprobs top_logprobs seed store prediction modalities audio "
    "verbosity web_search_options prompt_cache_key prompt_cache_retention prompt_cache_options moderation min_p "
    "repetition_penalty best_of"
)
"""Fields of chat requests that this dialect has no words for; it refuses what it does not know."""
_NEEDLESS = ("continue_final_message", "add_generation_prompt")
"""A last turn of the assistant's is continued here in any case."""
_NEUTRAL = (b"null", b"0", b"0.0", b"false", b"[]", b"{}", b'["text"]')
"""Values that ask for nothing."""
_NULL = msgspec.Raw(b"null")
_DECODE: Callable[[bytes | msgspec.Raw], Any] = msgspec.json.Decoder().decode
_TIERS = {"auto": "auto", "default": "standard_only"}


class Translated(NamedTuple):
    """A request's new body, and what changed."""

    body: bytes
    changes: tuple[str, ...]


def messages_request(request: InferenceRequest, upstream_model: str, most_tokens: int | None = None) -> Translated:
    """Return a chat request in the Messages dialect.

    Args:
        request: The chat request.
        upstream_model: The backend's name of the model.
        most_tokens: The most that the model writes, where that is known.

    Raises:
        InvalidRequest: The request holds what cannot be translated.
    """
    try:
        return _Translation(request, upstream_model, most_tokens).result()
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # A field below the top level holds what its shape does not allow.
        raise InvalidRequest("The request cannot be translated: a field has a value of a wrong type.") from error


class _Translation:
    """One request on its way."""

    def __init__(self, request: InferenceRequest, model: str, most_tokens: int | None) -> None:
        self._request = request
        self._fields: Mapping[str, msgspec.Raw] = raw_fields(request.body)
        self._changes: list[str] = list(request.changes)
        self._most_tokens = most_tokens
        self._whole: dict[str, Any] = {"model": model}

    def result(self) -> Translated:
        """Return what it has become."""
        fields, whole, changes = self._fields, self._whole, self._changes
        for name, value in fields.items():
            if name in _TRANSLATED or name in _NEEDLESS:
                continue
            if name not in _UNSPEAKABLE:
                whole[name] = value  # Anthropic's own fields, and whatever comes to be
            elif bytes(value) not in _NEUTRAL:
                changes.append(f"{name} dropped")
        self._limit()
        conversation = Conversation(self._value("messages") or [], changes)
        if conversation.system:
            whole["system"] = conversation.system
        whole["messages"] = conversation.turns
        if self._request.stream:
            whole["stream"] = True
        self._sampling()
        self._tools()
        self._shape()
        self._thinking(conversation)
        self._caller()
        if self._request.choices > 1:
            changes.append("n set to 1")
        return Translated(msgspec.json.encode(whole), tuple(dict.fromkeys(changes)))

    def _value(self, name: str) -> Any:
        return _DECODE(self._fields.get(name, _NULL))

    def _limit(self) -> None:
        limit = self._request.max_tokens
        if limit is None:
            limit = self._most_tokens or DEFAULT_MAX_TOKENS
            self._changes.append(f"max_tokens set to {limit}")
        self._whole["max_tokens"] = limit

    def _sampling(self) -> None:
        whole, changes = self._whole, self._changes
        temperature, top_p = self._value("temperature"), self._value("top_p")
        if isinstance(temperature, (int, float)):
            if temperature > 1:
                temperature = 1
                changes.append("temperature set to 1")
            whole["temperature"] = temperature
        if isinstance(top_p, (int, float)):
            if top_p == 1 and temperature is not None:
                changes.append("top_p dropped")  # it asks for nothing, and models refuse the two together
            else:
                whole["top_p"] = top_p
        stop = self._value("stop")
        if stop:
            given = [stop] if isinstance(stop, str) else stop
            kept = [text for text in given if text.strip()]
            if len(kept) < len(given):
                changes.append("blank stop dropped")  # they are refused
            if kept:
                whole["stop_sequences"] = kept

    def _tools(self) -> None:
        tools = [self._tool(tool) for tool in self._value("tools") or ()]
        tools += [self._tool({"type": "function", "function": one}) for one in self._value("functions") or ()]
        known = [tool for tool in tools if tool is not None]
        if not known:
            return
        choice = self._choice(known)
        if self._value("parallel_tool_calls") is False and (choice is None or choice["type"] != "none"):
            choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
        self._whole["tools"] = known
        if choice is not None:
            self._whole["tool_choice"] = choice

    def _tool(self, tool: Any) -> dict[str, Any] | None:
        if not isinstance(tool, dict) or tool.get("type") == "custom":
            self._changes.append("custom tools dropped")
            return None
        function = tool.get("function")
        if not isinstance(function, dict):
            return tool  # of Anthropic's own kinds
        schema = function.get("parameters") or {"properties": {}}
        told: dict[str, Any] = {
            "name": function.get("name"),
            "input_schema": schema if "type" in schema else {"type": "object", **schema},
        }
        if function.get("description"):
            told["description"] = function["description"]
        if function.get("strict"):
            told["strict"] = True
        cache = tool.get("cache_control") or function.get("cache_control")
        return {**told, "cache_control": cache} if cache else told

    def _choice(self, tools: list[dict[str, Any]]) -> dict[str, Any] | None:
        choice = self._value("tool_choice")
        if choice is None:
            choice = self._value("function_call")
        if isinstance(choice, str):
            return {"type": {"required": "any"}.get(choice, choice)}
        if not isinstance(choice, dict):
            return None
        if choice.get("type") == "allowed_tools":
            allowed = choice.get("allowed_tools") or choice
            names = {(one.get("function") or one).get("name") for one in allowed.get("tools") or ()}
            tools[:] = [tool for tool in tools if tool.get("name") in names]
            return {"type": "any" if allowed.get("mode") == "required" else "auto"}
        if choice.get("type") in ("auto", "any", "tool", "none"):
            return choice
        return {"type": "tool", "name": (choice.get("function") or choice).get("name")}

    def _shape(self) -> None:
        config = self._value("output_config")
        config = dict(config) if isinstance(config, dict) else {}
        wanted = self._value("response_format")
        kind = wanted.get("type") if isinstance(wanted, dict) else None
        if kind == "json_schema":
            config["format"] = {"type": "json_schema", "schema": (wanted.get("json_schema") or {}).get("schema") or {}}
        elif kind not in (None, "text"):
            # The prompt must ask for JSON too, by OpenAI's rule: what is lost is the guarantee.
            self._changes.append("response_format dropped")
        if config:
            self._whole["output_config"] = config

    def _thinking(self, conversation: Conversation) -> None:
        whole, changes = self._whole, self._changes
        own = self._value("thinking")
        effort = effort_asked(self._value("reasoning_effort"), self._value("reasoning"))
        if isinstance(own, dict):
            whole["thinking"] = own
            if effort is not None:
                changes.append("reasoning_effort dropped")
        elif effort is not None:
            forced = (whole.get("tool_choice") or {}).get("type") in ("any", "tool")
            wanted = thinking_for(
                whole["model"], effort, whole["max_tokens"], forced=forced, unsigned=conversation.unsigned
            )
            if wanted.thinking is not None:
                whole["thinking"] = wanted.thinking
            if wanted.effort is not None:
                whole["output_config"] = {"effort": wanted.effort, **whole.get("output_config", {})}
            if wanted.change is not None:
                changes.append(wanted.change)
        if (whole.get("thinking") or {}).get("type") in ("enabled", "adaptive") and isinstance(effort, str):
            for name in ("temperature", "top_k"):  # thinking allows neither
                if whole.pop(name, None) is not None:
                    changes.append(f"{name} dropped")

    def _caller(self) -> None:
        metadata = self._value("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        user = self._value("user") or self._value("safety_identifier") or metadata.get("user_id")
        if isinstance(user, str):
            self._whole["metadata"] = {"user_id": user}
        if set(metadata) - {"user_id"}:
            self._changes.append("metadata dropped")
        tier = self._value("service_tier")
        if tier in _TIERS:
            self._whole["service_tier"] = _TIERS[tier]
        elif tier == "standard_only":
            self._whole["service_tier"] = tier
        elif tier is not None:
            self._changes.append("service_tier dropped")
