"""The content of one chat message as the parts of a `generateContent` turn."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import msgspec

from router.wire.gemini.changes import Changes
from router.wire.parsing import invalid_field
from shared.errors import InvalidRequest, NotCarried

__all__ = ["content_parts", "read_value"]

T = TypeVar("T")
_MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "aac": "audio/aac",
        "avif": "image/avif",
        "csv": "text/csv",
        "flac": "audio/flac",
        "gif": "image/gif",
        "heic": "image/heic",
        "htm": "text/html",
        "html": "text/html",
        "jpeg": "image/jpeg",
        "jpg": "image/jpeg",
        "json": "application/json",
        "md": "text/markdown",
        "mov": "video/quicktime",
        "mp3": "audio/mp3",
        "mp4": "video/mp4",
        "mpeg": "video/mpeg",
        "ogg": "audio/ogg",
        "pdf": "application/pdf",
        "png": "image/png",
        "txt": "text/plain",
        "wav": "audio/wav",
        "webm": "video/webm",
        "webp": "image/webp",
        "xml": "text/xml",
    }
)
"""By the end of a file's name, for an address that says nothing of what is behind it."""


class _Address(msgspec.Struct):
    url: str
    detail: str | None = None


class _Audio(msgspec.Struct):
    data: str
    format: str = "wav"


class _File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _Address | str | None = None
    video_url: _Address | str | None = None
    input_audio: _Audio | None = None
    file: _File | None = None
    cache_control: dict[str, Any] | None = None


_TEXT: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)
_PARTS = msgspec.json.Decoder(list[_Part])
_ADDRESSED = ("image_url", "input_image", "image", "video_url", "input_video")


def read_value(decoder: msgspec.json.Decoder[T], value: bytes | msgspec.Raw, path: str) -> T:
    """Return a value within the request's body.

    Raises:
        InvalidRequest: It is something else than what is read; the error names the field.
    """
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        inner = invalid_field(str(error)).param or ""
        param = path + (inner if inner.startswith("[") or not inner else f".{inner}")
        raise InvalidRequest(f"Invalid value for '{param}': {error}.", param=param) from error


def content_parts(content: bytes, path: str, changes: Changes) -> list[dict[str, Any]]:
    """Return the parts that a message's content comes to.

    Args:
        content: A JSON string, a list of parts, or `null`.
        path: Where it stands in the request.
        changes: Learns what has no place in a part.

    Raises:
        InvalidRequest: It is none of those.
        NotCarried: No field of the dialect can carry a part.
    """
    if content == b"null":
        return []
    if content.startswith(b'"'):
        return [{"text": read_value(_TEXT, content, path)}]
    parts = read_value(_PARTS, content, path)
    return [_part(part, f"{path}[{index}]", changes) for index, part in enumerate(parts)]


def _part(part: _Part, path: str, changes: Changes) -> dict[str, Any]:
    if part.cache_control is not None:
        changes.drop("cache_control")
    if part.type in ("text", "input_text", "output_text") and part.text is not None:
        return {"text": part.text}
    if part.type == "refusal" and part.refusal is not None:
        return {"text": part.refusal}
    if part.type in _ADDRESSED and (found := part.image_url or part.video_url) is not None:
        if isinstance(found, str):
            return _media(found, path)
        if found.detail not in (None, "auto"):
            changes.drop("image_url.detail")
        return _media(found.url, path)
    if part.type == "input_audio" and part.input_audio is not None:
        kind = part.input_audio.format.lower()
        return _inline(_MEDIA_TYPES.get(kind, f"audio/{kind}"), part.input_audio.data)
    if part.type == "file" and part.file is not None:
        return _file(part.file, path, changes)
    raise NotCarried(f"The model cannot take a content part of type '{part.type}'.", param=f"{path}.type")


def _file(file: _File, path: str, changes: Changes) -> dict[str, Any]:
    if file.filename is not None:
        changes.drop("file.filename")
    if file.file_data is not None:
        if file.file_data.startswith("data:"):
            return _media(file.file_data, path)
        return _inline(_media_type(file.filename or "") or "application/pdf", file.file_data)
    if file.file_id is not None and file.file_id.startswith(("files/", "https://", "gs://")):
        return _media(file.file_id, path)
    raise NotCarried("The model takes files as 'file_data' only.", param=f"{path}.file.file_id")


def _media(address: str, path: str) -> dict[str, Any]:
    """Return what stands in a `data:` URL as inline data, anything else as the address that it is."""
    if not address.startswith("data:"):
        kind = _media_type(urlsplit(address).path) if "//" in address else None
        return {"fileData": ({"mimeType": kind} if kind else {}) | {"fileUri": address}}
    head, comma, data = address[len("data:") :].partition(",")
    if not comma:
        raise InvalidRequest("A 'data:' URL has a comma before its data.", param=path)
    kind, *options = head.split(";")
    if "base64" in options:
        return _inline(kind or "text/plain", unquote(data) if "%" in data else data)
    return _inline(kind or "text/plain", base64.b64encode(unquote_to_bytes(data)).decode())


def _media_type(name: str) -> str | None:
    return _MEDIA_TYPES.get(name.rpartition(".")[2].lower())


def _inline(kind: str, data: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": kind, "data": data}}
