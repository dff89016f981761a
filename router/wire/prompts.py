"""Prompts of endpoints without turns: a text, several texts, token ids, or several lists of them."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from router.wire.parsing import invalid_field
from shared.errors import InvalidRequest

__all__ = ["Prompts", "measure"]

_BYTES_PER_TOKEN = 4
_QUOTE, _BRACKET, _BRACE = b'"[{'
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_IDS = msgspec.json.Decoder(list[int])


class Prompts(NamedTuple):
    """What routing wants to know of prompts.

    Attributes:
        text_bytes: Length of them all; a token id counts as the text it stands for.
        longest: Length of the longest.
        number: How many there are.
        single: Whether it is one text.
    """

    text_bytes: int
    longest: int
    number: int
    single: bool = False


def measure(raw: msgspec.Raw, param: str, *, objects: bool = False) -> Prompts:
    """Return what a field with prompts comes to.

    Args:
        raw: The field's value.
        param: Its name, for errors.
        objects: Whether a list may also hold objects: texts and images, as multimodal models take them.

    Raises:
        InvalidRequest: It holds something else.
    """
    first = memoryview(raw)[0]
    if first == _QUOTE:
        length = len(memoryview(raw)) - 2
        return Prompts(length, length, 1, single=True)
    if first != _BRACKET:
        raise _invalid(param, "expected a string or an array")
    items = _LIST.decode(raw)
    if not items:
        raise _invalid(param, "expected at least one element")
    if memoryview(items[0])[0] not in (_QUOTE, _BRACKET, _BRACE):
        length = _tokens(raw, param)
        return Prompts(length, length, 1)
    lengths = [_length(item, f"{param}[{index}]", objects) for index, item in enumerate(items)]
    return Prompts(sum(lengths), max(lengths), len(lengths))


def _length(item: msgspec.Raw, param: str, objects: bool) -> int:
    first = memoryview(item)[0]
    if first == _QUOTE:
        return len(memoryview(item)) - 2
    if first == _BRACKET:
        return _tokens(item, param)
    if first == _BRACE and objects:
        return 0  # an image is long and few tokens
    raise _invalid(param, "expected a string or an array of token ids")


def _tokens(raw: msgspec.Raw, param: str) -> int:
    try:
        return len(_IDS.decode(raw)) * _BYTES_PER_TOKEN
    except msgspec.ValidationError as error:
        inner = invalid_field(str(error)).param or ""
        raise _invalid(param + inner, "expected a token id") from error


def _invalid(param: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': {reason}.", param=param)
