"""What requests refer to, and what is read out of answers to be kept."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from router.wire.responses.echo import item_owner, response_id
from router.wire.responses.native import EXPANDED
from router.wire.responses.turns import (
    ended_items,
    final_response,
    foreign_dropped,
    listed,
    read_turn,
    sealed_in,
    unsealed,
    with_items,
    with_output,
)
from shared.sse import encode_event
from tests.router.wire.responses.requests import responses_request

REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "sealed"}


def raws(*items: Any) -> list[msgspec.Raw]:
    """Return the JSON of items."""
    return [msgspec.Raw(json.dumps(item).encode()) for item in items]


def plain(items: Any) -> list[Any]:
    """Return items that are JSON as values."""
    return [json.loads(bytes(item)) for item in items]


def test_turn_of_a_text_is_a_message() -> None:
    """An input that is a text counts as one message of the user's."""
    turn = read_turn(responses_request(input="é\n", store=False, previous_response_id="resp_1"))
    assert plain(turn.items) == [{"type": "message", "role": "user", "content": "é\n"}]
    assert (turn.previous, turn.store) == ("resp_1", False)
    assert read_turn(responses_request()).store


def test_turn_knows_its_references_and_seals() -> None:
    """Items that are only named, and reasoning that only its maker can read, are found by their place."""
    items = [{"id": "msg_1"}, {"type": "item_reference", "id": "rs_2"}, {"role": "user", "content": "x", "id": "msg_3"}]
    turn = read_turn(responses_request(input=[*items, REASONING]))
    assert turn.references == [(0, "msg_1"), (1, "rs_2")]
    assert turn.sealed == {3: "sealed"}
    assert unsealed(raws({"type": "reasoning", "id": "rs_2", "summary": []}, REASONING)) == {0}


def test_items_without_foreign_reasoning_lose_the_ids_that_hang_on_it() -> None:
    """What was said after the reasoning loses its id; the user's own words, and outputs of tools, keep theirs."""
    items = [
        {"role": "user", "content": "x", "id": "msg_0"},
        REASONING,
        {"type": "message", "role": "assistant", "content": "y", "id": "msg_1"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c", "output": "z", "id": "fco_1"},
    ]
    kept = plain(foreign_dropped(raws(*items), {1}))
    assert [item.get("id") for item in kept] == ["msg_0", None, None, "fco_1"]
    assert plain(foreign_dropped(raws(*items), ())) == items


def test_request_with_other_items_is_measured_anew() -> None:
    """Another input changes what a backend must be able to do, and nothing else of the body."""
    request = responses_request(previous_response_id="resp_1", input=None, x=1)
    image = {"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}
    other = with_items(request, raws(image), EXPANDED)
    assert json.loads(other.body) == {**json.loads(request.body), "input": [image]}
    assert (other.attachments, other.changes) == (1, (EXPANDED,))
    assert "vision" in other.needs
    bare = b'{"model":"m","previous_response_id":"resp_1"}'
    without = with_items(msgspec.structs.replace(request, body=bare, spans={"model": (9, 12)}), raws(image))
    assert json.loads(without.body)["input"] == [image]


def test_final_response_is_found_at_the_end() -> None:
    """Id and JSON of a response come out of a whole answer, and out of a stream's last piece."""
    response = json.dumps({"id": "resp_1", "output": [REASONING]}).encode()
    assert final_response(response, stream=False) == ("resp_1", response)
    stream = encode_event(b'{"type":"response.output_text.delta"}') + b": x\n\n"
    ended = stream + encode_event(b'{"type":"response.completed","response":' + response + b"}")
    assert final_response(ended, stream=True) == ("resp_1", response)
    for nothing in (stream, b"", encode_event(b"[DONE]"), encode_event(b'{"type":"response.completed"}')):
        assert final_response(nothing, stream=True) is None
    assert final_response(b"{", stream=False) is None
    assert final_response(b"{}", stream=False) is None


def test_items_of_a_stream_complete_its_response() -> None:
    """A terminal event that repeats no items gets those that the stream has told; one that has some keeps them."""
    item = {"type": "message", "id": "msg_1"}
    ended = encode_event(json.dumps({"type": "response.output_item.done", "item": item}).encode())
    items = ended_items(b": x\n\n" + ended)
    assert plain(items) == [item]
    assert ended_items(b"") == ended_items(encode_event(b'{"type":1,"x":"response.output_item.done"}')) == []
    assert json.loads(with_output(b'{"id":"r"}', items)) == {"id": "r", "output": [item]}
    assert with_output(b'{"output":[{}]}', items) == b'{"output":[{}]}'


def test_turn_knows_its_conversation() -> None:
    """A conversation is named by its id or by an object with its id."""
    assert read_turn(responses_request(conversation="conv_1")).conversation == "conv_1"
    assert read_turn(responses_request(conversation={"id": "conv_1"})).conversation == "conv_1"
    assert read_turn(responses_request(conversation=None)).conversation is None


def test_sealed_reasoning_is_found_in_answers() -> None:
    """Sealed reasoning is found in a whole answer, in an item's end and in a response's."""
    response = json.dumps({"id": "resp_1", "output": [REASONING]}).encode()
    assert sealed_in(response, stream=False) == ["sealed"]
    item = json.dumps({"type": "response.output_item.done", "item": REASONING}).encode()
    assert sealed_in(encode_event(item), stream=True) == ["sealed"]
    whole = b'{"type":"response.completed","response":' + response + b"}"
    assert sealed_in(encode_event(whole), stream=True) == ["sealed"]
    assert sealed_in(encode_event(b'{"type":3,"x":"encrypted_content"}'), stream=True) == []
    assert sealed_in(b"{}", stream=False) == []


def test_ids_lead_from_items_to_their_response() -> None:
    """The id of an item that a bridge made tells whose it is; any other does not."""
    name = response_id("req_0123abcd")
    assert name == "resp_0123abcd"
    assert item_owner("msg_0123abcd-4") == name
    assert item_owner("fc_0123abcd-0") == name
    assert item_owner("msg_0123abcd") is None
    assert item_owner("x_0123abcd-0") is None


def test_items_are_listed_in_pages() -> None:
    """The newest come first, unless asked otherwise; `after` and `limit` cut pages; every item has an id."""
    items = raws(
        {"role": "user", "content": "a"},
        {"type": "message", "role": "assistant", "id": "msg_b", "content": "b"},
        {"type": "function_call_output", "call_id": "c", "output": "c"},
    )
    page = json.loads(listed("resp_1", items, {}))
    assert [item["id"] for item in page["data"]] == ["msg_1-in2", "msg_b", "msg_1-in0"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("msg_1-in2", "msg_1-in0", False)
    assert page["data"][1]["content"] == [{"type": "output_text", "text": "b"}]
    first = json.loads(listed("resp_1", items, {"order": "asc", "limit": "2"}))
    assert (first["last_id"], first["has_more"]) == ("msg_b", True)
    rest = json.loads(listed("resp_1", items, {"order": "asc", "after": "msg_b", "limit": "x"}))
    assert [item["id"] for item in rest["data"]] == ["msg_1-in2"]
    assert json.loads(listed("resp_1", [], {}))["first_id"] is None
