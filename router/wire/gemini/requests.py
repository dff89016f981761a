"""A chat request as a `generateContent` request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from router.types import InferenceRequest
from router.wire.fields import raw_fields
from router.wire.gemini.changes import Changes
from router.wire.gemini.parts import read_value
from router.wire.gemini.tools import tool_fields
from router.wire.gemini.turns import conversation

__all__ = ["generate_payload"]

_NULL = msgspec.Raw(b"null")
_PLAIN = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "n": "candidateCount",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
"""Fields that say the same in both dialects."""
_HANDLED = frozenset(
    {
        *_PLAIN,
        "extra_body",
        "function_call",
        "functions",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "modalities",
        "model",
        "parallel_tool_calls",
        "reasoning_effort",
        "response_format",
        "router",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "tool_choice",
        "tools",
        "top_logprobs",
    }
)
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
"""What Google's own OpenAI endpoint makes of an effort for models that think by budget."""
_BUDGETED = re.compile(r"(models/)?gemini-[12]\b")
_LEAST_BUDGET = 128
_SEEDS = 2**31
_GOOGLE = {"cached_content": "cachedContent", "safety_settings": "safetySettings", "labels": "labels"}


class _Schema(msgspec.Struct):
    schema: msgspec.Raw = _NULL


class _Format(msgspec.Struct):
    type: str = "text"
    json_schema: _Schema | None = None


class _Extra(msgspec.Struct):
    google: dict[str, msgspec.Raw] | None = None


_FORMAT = msgspec.json.Decoder(_Format)
_STOP: msgspec.json.Decoder[str | list[str]] = msgspec.json.Decoder(str | list[str])
_TEXT: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)
_TEXTS: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])
_WHOLE: msgspec.json.Decoder[int] = msgspec.json.Decoder(int)
_EXTRA: msgspec.json.Decoder[_Extra] = msgspec.json.Decoder(_Extra)


def generate_payload(request: InferenceRequest, model: str) -> tuple[bytes, tuple[str, ...]]:
    """Return the `generateContent` request for a chat request, and what it changes, each as `FIELD WHAT`.

    Args:
        request: A chat request.
        model: The backend's name of the model.

    Raises:
        InvalidRequest: A field is not what it should be.
        NotCarried: Nothing in the dialect can carry it.
    """
    changes = Changes(request.changes)
    given = {name: value for name, value in raw_fields(request.body).items() if bytes(value) != b"null"}
    payload = conversation(given.get("messages", _NULL), model, changes)
    payload |= tool_fields(given, changes)
    config: dict[str, Any] = {theirs: given[ours] for ours, theirs in _PLAIN.items() if ours in given}
    config |= _lengths(given) | _sampling(given, changes) | _format(given, changes) | _thinking(given, model, changes)
    for name in given:
        if name not in _HANDLED:
            changes.drop(name)
    _take_extra(given, payload, config, changes)
    if config:
        payload["generationConfig"] = config
    return msgspec.json.encode(payload), changes.told()


def _lengths(given: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    most = given.get("max_completion_tokens", given.get("max_tokens"))
    if most is not None:
        told["maxOutputTokens"] = most
    if "stop" in given:
        stop = read_value(_STOP, given["stop"], "stop")
        if stop:
            told["stopSequences"] = [stop] if isinstance(stop, str) else stop
    return told


def _sampling(given: Mapping[str, msgspec.Raw], changes: Changes) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if "seed" in given:
        seed = read_value(_WHOLE, given["seed"], "seed")
        if not -_SEEDS <= seed < _SEEDS:
            seed %= _SEEDS
            changes.alter("seed", seed)
        told["seed"] = seed
    if bytes(given.get("logprobs", _NULL)) == b"true":
        told["responseLogprobs"] = True
        if bytes(most := given.get("top_logprobs", _NULL)) not in (b"null", b"0"):
            told["logprobs"] = most
    elif "top_logprobs" in given:
        changes.drop("top_logprobs")
    if "modalities" in given:
        # Speech would come in a form that no chat client plays.
        wanted = read_value(_TEXTS, given["modalities"], "modalities")
        kept = [kind for kind in wanted if kind in ("text", "image")]
        if len(kept) < len(wanted):
            changes.alter("modalities", " ".join(kept) or "text")
        if "image" in kept:
            told["responseModalities"] = [kind.upper() for kind in kept]
    return told


def _format(given: Mapping[str, msgspec.Raw], changes: Changes) -> dict[str, Any]:
    if "response_format" not in given:
        return {}
    wanted = read_value(_FORMAT, given["response_format"], "response_format")
    if wanted.type == "text":
        return {}
    if wanted.type not in ("json_object", "json_schema"):
        changes.drop("response_format")
        return {}
    told: dict[str, Any] = {"responseMimeType": "application/json"}
    if wanted.json_schema is not None and bytes(wanted.json_schema.schema) != b"null":
        told["responseJsonSchema"] = wanted.json_schema.schema
    return told


def _thinking(given: Mapping[str, msgspec.Raw], model: str, changes: Changes) -> dict[str, Any]:
    """Return how much the model is to think: a level, or a budget for models that know no levels.

    Who asks for an effort gets to see the thoughts, as `reasoning_content`.
    """
    if "reasoning_effort" not in given:
        return {}
    effort = read_value(_TEXT, given["reasoning_effort"], "reasoning_effort")
    small = "pro" not in model
    shown: dict[str, Any] = {} if effort == "none" else {"includeThoughts": True}
    if _BUDGETED.match(model):
        budget = _BUDGETS.get(effort, _BUDGETS["high"])
        if effort not in _BUDGETS:
            changes.alter("reasoning_effort", "high")
        elif effort == "none" and not small:
            budget = _LEAST_BUDGET  # it cannot be told to think not at all
            changes.alter("reasoning_effort", f"{budget} tokens")
        return {"thinkingConfig": {"thinkingBudget": budget} | shown}
    level = effort
    if effort in ("none", "minimal"):
        level = "minimal" if small else "low"
    elif effort not in ("low", "medium", "high"):
        level = "high"
    if level != effort:
        changes.alter("reasoning_effort", level)
    return {"thinkingConfig": {"thinkingLevel": level.upper()} | shown}


def _take_extra(
    given: Mapping[str, msgspec.Raw], payload: dict[str, Any], config: dict[str, Any], changes: Changes
) -> None:
    """Take over what a client says to Google alone, in the place that Google's own OpenAI endpoint reads."""
    if "extra_body" not in given:
        return
    extra = read_value(_EXTRA, given["extra_body"], "extra_body")
    if extra.google is None:
        changes.drop("extra_body")
        return
    for name, value in extra.google.items():
        if name in ("thinking_config", "thinkingConfig"):
            config["thinkingConfig"] = value
        elif name in _GOOGLE or name in _GOOGLE.values():
            payload[_GOOGLE.get(name, name)] = value
        else:
            changes.drop(f"extra_body.google.{name}")
