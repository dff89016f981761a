"""OpenAI's embeddings: texts or token ids in, vectors out; bytes pass untouched in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from router.types import Caller, Completion, InferenceRequest
from router.wire.failures import error_event
from router.wire.fields import with_model
from router.wire.parsing import read_fields
from router.wire.prompts import Prompts, measure
from router.wire.usage import read_usage
from router.wire.wishes import parse_wishes
from shared.errors import InvalidRequest, UpstreamUnavailable

__all__ = ["parse_embedding_list", "parse_embeddings"]

_NULL = msgspec.Raw(b"null")
_ABSENT = msgspec.Raw(b"")
_NEEDS = frozenset({"embeddings"})


class _Embeddings(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    input: msgspec.Raw = _ABSENT
    messages: msgspec.Raw = _ABSENT  # vLLM's, for multimodal models, instead of an input
    encoding_format: str | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    router: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    usage: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL


_REQUEST = msgspec.json.Decoder(_Embeddings)
_ANSWER = msgspec.json.Decoder(_Answer)


def parse_embeddings(body: bytes, request_id: str, caller: Caller, headers: Mapping[str, str]) -> InferenceRequest:
    """Return the request that `body` and the client's headers make.

    Raises:
        InvalidRequest: The body is not JSON, not UTF-8, or a field has a wrong type or value; the error names
            the field.
    """
    fields, body, spans = read_fields(_REQUEST, body)
    prompts = _inputs(fields)
    return InferenceRequest(
        id=request_id,
        endpoint="embeddings",
        model=fields.model,
        stream=False,
        body=body,
        spans=spans,
        caller=caller,
        wishes=parse_wishes(headers, fields.router or None),
        headers=headers,
        max_tokens=0,
        text_bytes=prompts.text_bytes,
        longest_text_bytes=prompts.longest,
        needs=_NEEDS,
    )


def _inputs(fields: _Embeddings) -> Prompts:
    if fields.input is not _ABSENT:
        return measure(fields.input, "input", objects=True)
    if fields.messages is _ABSENT:
        raise InvalidRequest("Missing required parameter: 'input'.", param="input")
    return Prompts(0, 0, 1)


def parse_embedding_list(body: bytes, reply_model: str | None) -> Completion:
    """Return a whole answer, its bytes untouched but for `model` where `reply_model` is set.

    Raises:
        UpstreamUnavailable: The body is no list of embeddings.
        ServiceError: The body is an error in disguise.
    """
    try:
        parsed = _ANSWER.decode(body)
        if parsed.data is not None and reply_model is not None:
            body = with_model(body, reply_model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamUnavailable("The backend's answer is not a valid list of embeddings.") from error
    if parsed.data is None:
        raise error_event(parsed.error)
    return Completion(body, read_usage(parsed.usage))
