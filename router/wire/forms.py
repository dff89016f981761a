"""Multipart forms (RFC 7578), by position: the text fields are found, other bytes stay."""

from __future__ import annotations

import re
from collections.abc import Mapping

from router.wire.fields import Splice
from shared.errors import InvalidRequest

__all__ = ["add_field", "is_form", "read_form"]

_MOST_PARTS = 1000
_LONGEST_HEAD = 16 * 1024
_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"\r\n]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_DISPOSITION = re.compile(rb"^content-disposition\s*:\s*form-data\s*(;.*)$", re.IGNORECASE | re.MULTILINE)
_NAME = re.compile(rb';\s*name\s*=\s*(?:"((?:[^"\\\r\n]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)
_FILE = re.compile(rb";\s*filename\*?\s*=", re.IGNORECASE)


def is_form(content_type: str) -> bool:
    """Return whether a content type is that of a form."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def _delimiter(content_type: str) -> bytes:
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise InvalidRequest("The content type multipart/form-data needs a boundary.")
    return b"--" + (match[1] or match[2]).encode("latin-1")


def read_form(body: bytes, content_type: str) -> Mapping[str, tuple[int, int]]:
    """Return where the value of each text field stands; of one that comes several times, the last.

    Raises:
        InvalidRequest: The body is no form, is cut off, or has too many parts.
    """
    delimiter = _delimiter(content_type)
    fields: dict[str, tuple[int, int]] = {}
    position = _first(body, delimiter)
    for _ in range(_MOST_PARTS):
        start = position + len(delimiter)
        if body[start : start + 2] == b"--":
            return fields
        line = body.find(b"\r\n", start, start + 80)
        if line < 0 or body[start:line].strip(b" \t"):
            raise _broken("a delimiter is followed by something else than a line break")
        # The line break of the delimiter may be that of an empty head.
        end = body.find(b"\r\n\r\n", line, line + _LONGEST_HEAD)
        if end < 0:
            raise _broken("a part has no end of its head, or a very long one")
        value = end + 4
        position = body.find(b"\r\n" + delimiter, value)
        if position < 0:
            raise _broken("its last part is not ended; is it cut off?")
        if (name := _field(body[line:end])) is not None:
            fields[name] = (value, position)
        position += 2
    raise InvalidRequest(f"The form has more than {_MOST_PARTS} parts.")


def _first(body: bytes, delimiter: bytes) -> int:
    if body.startswith(delimiter):
        return 0
    found = body.find(b"\r\n" + delimiter)
    if found < 0:
        raise _broken("its boundary does not occur in it")
    return found + 2


def _field(head: bytes) -> str | None:
    """Return the name that a part's head gives to a text, or None where it is a file or has no name."""
    told = _DISPOSITION.search(head)
    name = None if told is None or _FILE.search(told[1]) else _NAME.search(told[1])
    return None if name is None else (name[1] if name[1] is not None else name[2]).decode("utf-8", "replace")


def add_field(body: bytes, content_type: str, name: str, value: bytes) -> Splice:
    """Return the replacement that adds a text before the first part of a form."""
    delimiter = _delimiter(content_type)
    start = _first(body, delimiter)
    head = b'%b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n' % (delimiter, name.encode())
    return (start, start, head + value + b"\r\n")


def _broken(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The multipart form cannot be read: {reason}.")
