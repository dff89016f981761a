"""Turns of a conversation: what a request refers to, what is kept of its answer, and how one builds on the other."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import msgspec
from msgspec import structs

from router.types import InferenceRequest, Privacy
from router.wire.fields import insert_field, raw_fields, splice
from router.wire.responses.parse import parse_responses
from shared.sse import SSEReader

__all__ = [
    "Following",
    "Kept",
    "Turn",
    "digest",
    "ended_items",
    "final_response",
    "following",
    "foreign_dropped",
    "item_id",
    "keep",
    "listed",
    "read_turn",
    "sealed_in",
    "under_way",
    "unsealed",
    "with_items",
    "with_output",
]

_NULL = msgspec.Raw(b"null")
_SEGMENT = 64 * 1024
"""Bytes of a conversation that are kept with each of its responses; what came before, once."""
_SAID = ("message", "function_call", "custom_tool_call")
_TERMINAL = ("response.completed", "response.incomplete", "response.failed")


class Kept(msgspec.Struct):
    """What is kept of a response.

    `items` is what the conversation held before the answer, from the response `base` on: with what was said
    there, and what that held before. Where `whole` is false something before is known to the backend alone.
    `deployment` is where a backend keeps the response too. `privacy` is how far the conversation may travel.
    """

    response: msgspec.Raw
    items: list[msgspec.Raw]
    base: str | None = None
    deployment: str | None = None
    whole: bool = True
    privacy: Privacy = "any"

    @property
    def output(self) -> list[msgspec.Raw]:
        """The items that were answered."""
        return _output(bytes(self.response))


class _Item(msgspec.Struct):
    type: str | None = None
    role: str | None = None
    id: str | None = None
    encrypted_content: str | None = None


class Following(InferenceRequest, frozen=True):
    """A request whose input was completed with what is kept; `turn` is what the client sent."""

    turn: Turn | None = None
    before: tuple[str, Kept] | None = None
    """Id and record of the response that it follows."""
    alone: bool = False
    """Whether all that is sealed in it was made by the deployment that it is pinned to."""


class _Response(msgspec.Struct):
    id: str | None = None
    output: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str | None = None
    response: msgspec.Raw = _NULL
    item: msgspec.Raw = _NULL


class Turn(msgspec.Struct, frozen=True):
    """What a request refers to.

    Attributes:
        previous: The id of the response that it follows.
        items: Its input, as items.
        store: Whether its answer is to be kept.
        conversation: The id of the backend's conversation that it belongs to.
    """

    previous: str | None
    items: list[msgspec.Raw]
    store: bool
    conversation: str | None = None

    @property
    def references(self) -> list[tuple[int, str]]:
        """Position and id of the items that are only named."""
        read = [_ITEM.decode(item) for item in self.items]
        return [
            (index, item.id)
            for index, item in enumerate(read)
            if item.id is not None and (item.type == "item_reference" or (item.type is None and item.role is None))
        ]

    @property
    def sealed(self) -> dict[int, str]:
        """Position to content of the reasoning that only its maker can read."""
        return sealed(self.items)


_ITEM = msgspec.json.Decoder(_Item)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_RESPONSE = msgspec.json.Decoder(_Response)
_EVENT = msgspec.json.Decoder(_Event)
_TEXT = msgspec.json.Decoder(str)


def read_turn(request: InferenceRequest) -> Turn:
    """Return what a request refers to."""
    fields = raw_fields(request.body)
    given = fields.get("input", _NULL)
    first = bytes(memoryview(given)[:1])
    if first == b"[":
        items = _ITEMS.decode(given)
    elif first == b'"':
        items = [msgspec.Raw(b'{"type":"message","role":"user","content":' + bytes(given) + b"}")]
    else:
        items = []
    previous = fields.get("previous_response_id", _NULL)
    named = None if bytes(memoryview(previous)[:4]) == b"null" else _TEXT.decode(previous)
    return Turn(named or None, items, bytes(fields.get("store", _NULL)) != b"false", _conversation(fields))


def _conversation(fields: Mapping[str, msgspec.Raw]) -> str | None:
    """Return the id of a conversation, which is told alone or in an object."""
    given = fields.get("conversation", _NULL)
    first = bytes(memoryview(given)[:1])
    if first == b"{":
        given = raw_fields(bytes(given)).get("id", _NULL)
        first = bytes(memoryview(given)[:1])
    return _TEXT.decode(given) if first == b'"' else None


def sealed(items: Sequence[msgspec.Raw]) -> dict[int, str]:
    """Return position to content of the reasoning that only its maker can read."""
    found = {}
    for index, raw in enumerate(items):
        if b'"encrypted_content"' in bytes(raw) and (content := _ITEM.decode(raw).encrypted_content):
            found[index] = content
    return found


def unsealed(items: Sequence[msgspec.Raw]) -> set[int]:
    """Return the positions of reasoning that no backend can make use of: what a bridge told of it, or a bare id."""
    found = set()
    for index, raw in enumerate(items):
        if b'"reasoning"' in bytes(raw):
            item = _ITEM.decode(raw)
            if item.type == "reasoning" and not item.encrypted_content:
                found.add(index)
    return found


def digest(caller: str, content: str) -> str:
    """Return a short name of what a caller was given sealed."""
    return hashlib.sha256(f"{caller}\n{content}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def item_id(item: msgspec.Raw) -> str | None:
    """Return an item's id, or None where it has none."""
    return _ITEM.decode(item).id


def foreign_dropped(items: Sequence[msgspec.Raw], foreign: Collection[int]) -> list[msgspec.Raw]:
    """Return items without the reasoning at some positions.

    What was said after it loses its id: a backend that knows the id would miss the reasoning that led to it.
    """
    if not foreign:
        return [*items]
    kept = []
    for index, raw in enumerate(items):
        if index in foreign:
            continue
        item = _ITEM.decode(raw)
        kind = item.type or "message"
        if item.id is not None and kind in _SAID and (kind != "message" or item.role == "assistant"):
            fields = raw_fields(bytes(raw))
            del fields["id"]
            raw = msgspec.Raw(msgspec.json.encode(fields))  # noqa: PLW2901
        kept.append(raw)
    return kept


def with_items(request: InferenceRequest, items: Sequence[msgspec.Raw], *changes: str) -> InferenceRequest:
    """Return a request with another input, measured anew; `changes` say what that alters."""
    value = msgspec.json.encode(items)
    spans = request.spans
    if "input" in spans:
        body = splice(request.body, [(*spans["input"], value)])
    else:
        body = splice(request.body, [insert_field(spans, "input", value)])
    parsed = parse_responses(body, request.id, request.caller, request.headers)
    told = (*request.changes, *(change for change in changes if change not in request.changes))
    needs = parsed.needs | request.needs
    return structs.replace(parsed, changes=told, needs=needs, pin=request.pin, wishes=request.wishes)


def keep(
    turn: Turn, response: bytes, before: tuple[str, Kept] | None, deployment: str | None, privacy: Privacy = "any"
) -> Kept:
    """Return what to keep of an answer.

    Args:
        turn: What the client sent.
        response: The response's JSON.
        before: Id and record of the response that the turn followed, where it is known.
        deployment: Where a backend keeps the response too.
        privacy: How far the conversation may travel.
    """
    told = msgspec.Raw(response)
    if before is None:
        return Kept(told, turn.items, None, deployment, turn.previous is None, privacy)
    name, kept = before
    earlier = [*kept.items, *kept.output]
    if sum(map(_length, earlier)) > _SEGMENT:
        return Kept(told, turn.items, name, deployment, kept.whole, privacy)
    return Kept(told, [*earlier, *turn.items], kept.base, deployment, kept.whole, privacy)


def following(request: InferenceRequest, turn: Turn, before: tuple[str, Kept] | None, *, alone: bool) -> Following:
    """Return a completed request that remembers what the client sent."""
    fields = {name: getattr(request, name) for name in InferenceRequest.__struct_fields__}
    return Following(**fields, turn=turn, before=before, alone=alone)


def _length(raw: msgspec.Raw) -> int:
    return len(memoryview(raw))


def _output(response: bytes) -> list[msgspec.Raw]:
    try:
        return _RESPONSE.decode(response).output or []
    except msgspec.DecodeError:
        return []


def final_response(raw: bytes, *, stream: bool) -> tuple[str, bytes] | None:
    """Return id and JSON of the response that an answer, or a piece of a stream, ends with; None where it does not."""
    if not stream:
        return _identified(raw)
    for event in reversed(SSEReader().feed(raw)):
        if event.data is None:
            continue
        try:
            told = _EVENT.decode(event.data)
        except msgspec.DecodeError:
            continue
        if told.type in _TERMINAL:
            return _identified(bytes(told.response))
    return None


def ended_items(raw: bytes) -> list[msgspec.Raw]:
    """Return the items whose ends a piece of a stream tells."""
    if b"response.output_item.done" not in raw:
        return []
    try:
        events = [_EVENT.decode(event.data) for event in SSEReader().feed(raw) if event.data is not None]
    except msgspec.DecodeError:
        return []
    return [event.item for event in events if event.type == "response.output_item.done"]


def with_output(response: bytes, items: Sequence[msgspec.Raw]) -> bytes:
    """Return a response that holds its items; some backends tell them in the stream alone."""
    if not items or _output(response):
        return response
    fields: dict[str, msgspec.Raw] = raw_fields(response)
    return msgspec.json.encode({**fields, "output": list(items)})


def under_way(response: bytes) -> bool:
    """Return whether a response is being made in the background."""
    status = raw_fields(response).get("status", _NULL)
    return bytes(status) in (b'"queued"', b'"in_progress"')


def _identified(response: bytes) -> tuple[str, bytes] | None:
    try:
        name = _RESPONSE.decode(response).id
    except msgspec.DecodeError:
        return None
    return (name, response) if name else None


def sealed_in(raw: bytes, *, stream: bool) -> list[str]:
    """Return the contents of reasoning that an answer, or a piece of a stream, holds sealed."""
    if b'"encrypted_content"' not in raw:
        return []
    try:
        if not stream:
            return [*sealed(_output(raw)).values()]
        events = [_EVENT.decode(event.data) for event in SSEReader().feed(raw) if event.data is not None]
    except msgspec.DecodeError:
        return []
    items = [event.item for event in events if event.type == "response.output_item.done"]
    items += [item for event in events if event.type in _TERMINAL for item in _output(bytes(event.response))]
    return [*sealed(items).values()]


def listed(name: str, items: Sequence[msgspec.Raw], query: Mapping[str, str]) -> bytes:
    """Return a page of a response's input items.

    Args:
        name: The response's id.
        items: All of them, oldest first.
        query: `order` (`asc` or `desc`, the default), `limit` (1 to 100, by default 20), and `after`, an item's id.
    """
    whole = [_with_id(item, f"msg_{name.removeprefix('resp_')}-in{index}") for index, item in enumerate(items)]
    if query.get("order", "desc") != "asc":
        whole.reverse()
    names = [one for one, _ in whole]
    if (after := query.get("after")) in names:
        whole = whole[names.index(after) + 1 :]
    asked = query.get("limit", "20")
    limit = min(100, max(1, int(asked))) if asked.isdecimal() else 20
    page = whole[:limit]
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [item for _, item in page],
            "first_id": page[0][0] if page else None,
            "last_id": page[-1][0] if page else None,
            "has_more": len(whole) > limit,
        }
    )


def _with_id(item: msgspec.Raw, name: str) -> tuple[str, msgspec.Raw]:
    """Return an item's id and the item; one that came without gets a name, and its content the form of parts."""
    fields = raw_fields(bytes(item))
    kind = _ITEM.decode(item)
    if kind.id is None:
        fields["id"] = msgspec.Raw(msgspec.json.encode(name))
    if kind.type is None:
        fields["type"] = msgspec.Raw(b'"message"')
    content = fields.get("content", _NULL)
    if kind.type in (None, "message") and bytes(memoryview(content)[:1]) == b'"':
        part = b"output_text" if kind.role == "assistant" else b"input_text"
        fields["content"] = msgspec.Raw(b'[{"type":"' + part + b'","text":' + bytes(content) + b"}]")
    return kind.id or name, msgspec.Raw(msgspec.json.encode(fields))
