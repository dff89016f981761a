"""Reading a client's JSON body: the typed fields that routing needs, and errors that name the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from router.wire.fields import index_fields
from shared.errors import InvalidRequest

__all__ = ["invalid_field", "read_fields"]

_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
T = TypeVar("T")


def read_fields(decoder: msgspec.json.Decoder[T], body: bytes) -> tuple[T, bytes, Mapping[str, tuple[int, int]]]:
    """Return the fields that `decoder` knows, the body, and where in it the value of each top-level field stands.

    Raises:
        InvalidRequest: The body is not JSON, not UTF-8, or a field has a wrong type or value; the
            error names the field.
    """
    try:
        body.isascii() or body.decode()
        fields = decoder.decode(body)
        body, spans = index_fields(body)
    except msgspec.ValidationError as error:
        raise invalid_field(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply.") from error
    return fields, body, spans


def invalid_field(message: str) -> InvalidRequest:
    """Return the error for what msgspec says of a value that does not fit."""
    path = _PATH.search(message)
    missing = _MISSING.search(message)
    param = path.group(1) if path else ""
    text = message[: path.start()] if path else message
    if missing:
        param = f"{param}.{missing.group(1)}" if param else missing.group(1)
        return InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
    if not param:
        return InvalidRequest(f"The request body must be a JSON object. {text}.")
    return InvalidRequest(f"Invalid value for '{param}': {text[:1].lower()}{text[1:]}.", param=param)
