"""Requests with an `Idempotency-Key`: one answer for all that repeat one another, each client at its own pace."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from router.api.client import Call, Client
from router.delivery.desk import Order
from router.delivery.numbering import place_of, tag_of
from router.delivery.recording import Reader
from router.interfaces import Headers
from router.types import InferenceRequest
from shared.errors import InvalidRequest

__all__ = ["KEY", "early_head", "order_of", "play"]

KEY = "idempotency-key"
_LONGEST = 255
_AGAIN = (b"x-router-idempotent-replay", b"true")
_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^;\s]+))', re.IGNORECASE)


def order_of(request: InferenceRequest, call: Call) -> Order:
    """Return what a request with a key asks of the desk.

    Raises:
        InvalidRequest: The key is too long, or `Last-Event-ID` is none of ours.
    """
    key = call.headers[KEY]
    if len(key) > _LONGEST:
        raise InvalidRequest(f"An Idempotency-Key has at most {_LONGEST} characters.", param="Idempotency-Key")
    last = call.headers.get("last-event-id") if request.stream else None
    name = hashlib.sha256(f"{request.caller.id}\0{key}".encode("utf-8", "surrogateescape")).hexdigest()
    return Order(name, _fingerprint(request, call), tag_of(call.id), request.stream, place_of(last) if last else None)


def _fingerprint(request: InferenceRequest, call: Call) -> bytes:
    body = call.body
    # A form's boundary is made anew by each try, and says nothing.
    if (match := _BOUNDARY.search(_content_type(call.headers))) is not None:
        body = body.replace((match[1] or match[2]).encode("latin-1"), b"")
    digest = hashlib.sha256(f"{request.endpoint}\0{request.path}\0".encode())
    digest.update(body)
    return digest.digest()


def _content_type(headers: Mapping[str, str]) -> str:
    content_type = headers.get("content-type", "")
    return content_type if content_type.lower().startswith("multipart/") else ""


def early_head(reader: Reader) -> Headers:
    """Return what can be told of an answer before it begins."""
    return (*reader.recording.early, _AGAIN) if reader.again else reader.recording.early


async def play(reader: Reader, client: Client) -> None:
    """Send an answer, or the rest of one, to a client.

    Raises:
        ServiceError: It failed, or cannot be had any more.
    """
    await reader.ready()
    recording = reader.recording
    head = (*recording.head, _AGAIN) if reader.again else recording.head
    if not recording.stream:
        body, _ = await reader.more()
        await client.answer(recording.status, head, body, recording.content_type)
        return
    client.begin(head)
    while True:
        data, last = await reader.more()
        if last:
            await client.end(data)
            return
        if not client.push(data):
            await client.drain()
