"""`POST /v1/messages` and `/v1/messages/count_tokens`, for Anthropic's clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import structs

from router.api.respond import Resource
from router.interfaces import Front
from router.types import Caller, InferenceRequest
from router.wire.anthropic.errors import PING, error, error_event
from router.wire.anthropic.parse import parse_count_tokens, parse_messages

__all__ = ["COUNT_TOKENS", "COUNT_TOKENS_BETA", "MESSAGES", "MESSAGES_BETA"]

_Parse = Callable[[bytes, str, Caller, Mapping[str, str]], InferenceRequest]


def _with_query(parse: _Parse, query: str) -> _Parse:
    """Return a parser of requests that came with a query, which a backend of the dialect gets too."""

    def parse_with_query(body: bytes, request_id: str, caller: Caller, headers: Mapping[str, str]) -> InferenceRequest:
        return structs.replace(parse(body, request_id, caller, headers), path=query)

    return parse_with_query


def _resource(parse: _Parse) -> Resource:
    return Resource(Front(parse, error, error_event, PING, (b"request-id",)))


MESSAGES = _resource(parse_messages)
MESSAGES_BETA = _resource(_with_query(parse_messages, "?beta=true"))
COUNT_TOKENS = _resource(parse_count_tokens)
COUNT_TOKENS_BETA = _resource(_with_query(parse_count_tokens, "?beta=true"))
