"""Chat answers as responses: whole and streamed alike."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from router.types import Chunk, Completion, Usage
from router.wire.decoders import EventStream
from router.wire.fields import index_fields
from router.wire.openai import ChatStream
from router.wire.responses.bridge import ResponsesBridge
from shared.errors import UpstreamUnavailable
from shared.sse import DONE, SSEReader, encode_event
from tests.router.wire.responses.requests import responses_request
from tests.support.properties import text
from tests.support.upstream import chunk, completion

USAGE = Usage(prompt_tokens=11, completion_tokens=7, cached_tokens=3, reasoning_tokens=2)
TOOLS = [
    {"type": "function", "name": "f"},
    {"type": "custom", "name": "free"},
    {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", "name": "f"}]},
]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def whole(message: dict[str, Any], finish: str = "stop", **extra: Any) -> dict[str, Any]:
    """The response for a whole chat message."""
    body = completion("")
    body["choices"][0] |= {
        "message": {"role": "assistant", "content": None, **message},
        "finish_reason": finish,
        **extra,
    }
    bridge = ResponsesBridge(responses_request(tools=TOOLS))
    answer = bridge.whole(Completion(json.dumps(body).encode(), USAGE, finish))
    assert (answer.usage, answer.finish_reason) == (USAGE, finish)
    told: dict[str, Any] = json.loads(answer.body)
    Response.model_validate(told, strict=False)
    return told


def streamed(*chunks: dict[str, Any]) -> list[dict[str, Any]]:
    """The events for some chat chunks, checked for what every stream must hold."""
    bridge = ResponsesBridge(responses_request(tools=TOOLS, stream=True))
    raw = b"".join(bridge.feed(Chunk(encode_event(json.dumps(piece).encode()))).raw for piece in chunks)
    last = bridge.feed(Chunk(DONE, usage=USAGE, done=True))
    assert last.done
    return checked(raw + last.raw)


def checked(raw: bytes) -> list[dict[str, Any]]:
    """Read events; each has its name, its number, the shape that the SDK has for it, and its place."""
    read = SSEReader().feed(raw)
    events = [json.loads(event.data or b"") for event in read]
    assert [event.event for event in read] == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_python(event)
    done = [event for event in events if event["type"] == "response.output_item.done"]
    final = events[-1]["response"]
    assert final["output"] == [event["item"] for event in sorted(done, key=lambda event: event["output_index"])]
    for event in done:
        _spoken_whole(events, event["item"])
    return events


def _spoken_whole(events: list[dict[str, Any]], item: dict[str, Any]) -> None:
    """The pieces of an item add up to what it says in the end."""

    def pieces(kind: str, place: int | None = None) -> str:
        mine = [event for event in events if event.get("item_id") == item["id"] and event["type"] == kind]
        return "".join(event["delta"] for event in mine if place is None or event["content_index"] == place)

    if item["type"] == "function_call":
        assert pieces("response.function_call_arguments.delta") == item["arguments"]
    elif item["type"] == "custom_tool_call":
        assert pieces("response.custom_tool_call_input.delta") == item["input"]
    else:
        for index, part in enumerate(item["content"]):
            said = part["refusal"] if part["type"] == "refusal" else part["text"]
            assert pieces(f"response.{part['type']}.delta", index) == said


def test_whole_answer_is_a_whole_response() -> None:
    """Every documented field is there, and the request is repeated."""
    told = whole({"content": "Hello."})
    assert told["output"] == [
        {
            "id": "msg_1-0",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}],
        }
    ]
    assert told["id"] == "resp_1"
    assert (told["created_at"], told["model"], told["status"]) == (1_700_000_000, "upstream-model", "completed")
    assert told["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 18,
    }
    assert told["tools"] == TOOLS
    assert (told["error"], told["incomplete_details"], told["previous_response_id"]) == (None, None, None)
    assert (told["parallel_tool_calls"], told["tool_choice"], told["text"]) == (
        True,
        "auto",
        {"format": {"type": "text"}},
    )


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_finish_reasons(finish: str, status: str, reason: str | None) -> None:
    """An answer that was cut is incomplete, also in its stream."""
    told = whole({"content": "Hello."}, finish)
    assert (told["status"], told["output"][0]["status"]) == (status, status)
    assert (told["incomplete_details"] or {}).get("reason") == reason
    last = streamed(chunk({"content": "Hello."}), chunk({}, finish))[-1]
    assert last["type"] == f"response.{status}"
    assert last["response"]["incomplete_details"] == told["incomplete_details"]


def test_stream_tells_reasoning_text_refusal_and_calls_as_items() -> None:
    """Each kind of output is an item of its own, told from its beginning to its end."""
    events = streamed(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "Hm"}),
        chunk({"reasoning_content": "m"}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk({"refusal": "no"}),
        chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "free", "arguments": '{"inp'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x": 1}'}}]}),
        chunk({"tool_calls": [{"index": 1, "function": {"arguments": 'ut": "a\\nb"}'}}]}),
        chunk({}, "tool_calls"),
    )
    reasoning, message, call, free = events[-1]["response"]["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hmm"}]
    assert [part["type"] for part in message["content"]] == ["output_text", "refusal"]
    assert (call["name"], call["arguments"], call["call_id"]) == ("f", '{"x": 1}', "a")
    assert (free["name"], free["input"], free["call_id"]) == ("free", "a\nb", "b")
    message_ends = next(
        i for i, e in enumerate(events) if e["type"] == "response.output_item.done" and e["output_index"] == 1
    )
    call_begins = next(
        i for i, e in enumerate(events) if e["type"] == "response.output_item.added" and e["output_index"] == 2
    )
    assert message_ends < call_begins


@pytest.mark.parametrize(
    "pieces",
    [
        [
            {"id": "a", "function": {"name": "f", "arguments": "1"}},
            {"id": "b", "function": {"name": "f", "arguments": "2"}},
        ],
        [
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": "1"}},
            {"index": 0, "id": "b", "function": {"name": "f", "arguments": "2"}},
        ],
        [
            {"index": 0, "id": "a", "function": {}},
            {"index": 0, "id": "a", "function": {"name": "f"}},
            {"index": 0, "id": "a", "function": {"arguments": "1"}},
            {"index": 1, "id": "b", "function": {"name": "f", "arguments": "2"}},
        ],
        [
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": "1"}},
            {"index": 3, "id": "b", "function": {"name": "f", "arguments": "2"}},
        ],
    ],
)
def test_stream_understands_servers_that_do_not_count(pieces: list[dict[str, Any]]) -> None:
    """Calls without an index, or with a wrong one, are still told apart."""
    events = streamed(*(chunk({"tool_calls": [piece]}) for piece in pieces), chunk({}, "tool_calls"))
    made = [(item["call_id"], item["arguments"]) for item in events[-1]["response"]["output"]]
    assert made == [("a", "1"), ("b", "2")]


def test_calls_of_a_namespace_are_told_with_it() -> None:
    """A function that stands for a tool of a namespace is called by the tool's own name, within its namespace."""
    called = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "n__f", "arguments": "{}"}}]}
    events = streamed(chunk(called), chunk({}, "tool_calls"))
    (item,) = events[-1]["response"]["output"]
    assert (item["name"], item["namespace"]) == ("f", "n")
    assert whole(called)["output"] == [item]


def test_logprobs_and_annotations_are_carried() -> None:
    """Log probabilities stand with the text that they are of; citations lose chat's nesting."""
    token = {"token": "Hi", "bytes": [72, 105], "logprob": -0.5, "top_logprobs": []}
    cited = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 2}}
    message = {"content": "Hi", "annotations": [cited]}
    part = whole(message, logprobs={"content": [token]})["output"][0]["content"][0]
    assert part["logprobs"] == [token]
    assert part["annotations"] == [{"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 2}]
    first = chunk({"content": "Hi"})
    first["choices"][0]["logprobs"] = {"content": [token]}
    events = streamed(first, chunk({"annotations": [cited]}), chunk({}, "stop"))
    assert events[-1]["response"]["output"][0]["content"][0] == part


def test_odd_answers() -> None:
    """Text in parts, reasoning under both names, arguments as an object, and nothing at all are understood."""
    parts = whole({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})
    assert parts["output"][0]["content"][0]["text"] == "ab"
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    thought, said = whole({"content": [thinking, {"type": "text", "text": "a"}]})["output"]
    assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "hm")
    assert said["content"][0]["text"] == "a"
    both = whole({"content": "x", "reasoning": "why", "reasoning_content": "why"})
    assert both["output"][0]["content"][0]["text"] == "why"
    loose = whole({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]})
    assert json.loads(loose["output"][0]["arguments"]) == {"a": 1}
    assert loose["output"][0]["call_id"]
    broken = whole({"tool_calls": [{"id": "c", "function": {"name": "free", "arguments": "just text"}}]})
    assert broken["output"][0]["input"] == "just text"
    assert whole({})["output"] == []
    assert streamed(chunk({"role": "assistant"}), chunk({}, "stop"))[-1]["response"]["output"] == []


@pytest.mark.parametrize("data", [b"[]", b'{"choices": 3}', b'{"choices": [{"delta": {"tool_calls": 3}}]}', b"{"])
def test_what_is_no_chat_is_the_backends_fault(data: bytes) -> None:
    """A chat answer of a wrong shape is an upstream failure."""
    with pytest.raises(UpstreamUnavailable):
        ResponsesBridge(responses_request(stream=True)).feed(Chunk(encode_event(data)))
    with pytest.raises(UpstreamUnavailable):
        ResponsesBridge(responses_request()).whole(Completion(data))


def test_events_are_one_line_each() -> None:
    """A request that was written over several lines is repeated in one, as strict readers need it."""
    request = responses_request(stream=True, tools=TOOLS)
    spread = json.dumps(json.loads(request.body), indent=2).encode()
    body, spans = index_fields(spread)
    bridge = ResponsesBridge(structs.replace(request, body=body, spans=spans))
    raw = bridge.feed(Chunk(encode_event(json.dumps(chunk({"content": "a"})).encode()))).raw
    for event in raw.split(b"\n\n")[:-1]:
        assert event.count(b"\n") == 1


# --- properties -----------------------------------------------------------------------------------

calls = st.lists(st.tuples(st.sampled_from(["f", "free"]), text), max_size=3)


def _pieces(said: str, cuts: list[int]) -> list[str]:
    places = sorted({min(cut, len(said)) for cut in cuts} | {0, len(said)})
    return [said[a:b] for a, b in itertools.pairwise(places)]


@given(text, text, text, calls, st.lists(st.integers(0, 12), max_size=4), st.sampled_from(["stop", "length"]))
def test_stream_ends_with_the_whole_response(
    thought: str, said: str, refused: str, made: list[tuple[str, str]], cuts: list[int], finish: str
) -> None:
    """However an answer is cut into pieces, its stream ends with the response that the whole answer is."""
    arguments = [json.dumps({"input": argument}) if name == "free" else argument for name, argument in made]
    message = {
        "reasoning_content": thought,
        "content": said,
        "refusal": refused,
        "tool_calls": [
            {"id": f"c{i}", "type": "function", "function": {"name": made[i][0], "arguments": arguments[i]}}
            for i in range(len(made))
        ],
    }
    chunks = [chunk({"role": "assistant", "content": ""})]
    for field in ("reasoning_content", "content", "refusal"):
        chunks += [chunk({field: piece}) for piece in _pieces(str(message[field]), cuts)]
    for index, (name, _) in enumerate(made):
        chunks.append(chunk({"tool_calls": [{"index": index, "id": f"c{index}", "function": {"name": name}}]}))
    most = max(map(len, arguments), default=0)
    for cut in range(most):  # the calls' arguments come interleaved
        for index, argument in enumerate(arguments):
            if cut < len(argument):
                chunks.append(chunk({"tool_calls": [{"index": index, "function": {"arguments": argument[cut]}}]}))
    chunks.append(chunk({}, finish))
    final = streamed(*chunks)[-1]["response"]
    assert final == whole(message, finish)


@given(st.lists(st.integers(1, 400), max_size=8))
def test_any_byte_split_gives_the_same_events(sizes: list[int]) -> None:
    """However the network cuts a chat stream, the client's events are the same."""
    pieces = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "Grü"}),
        chunk({"content": "ße"}),
        chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"é": 1}'}}]}),
        chunk({}, "tool_calls"),
        chunk(None, usage={"prompt_tokens": 11, "completion_tokens": 7}),
    ]
    raw = b"".join(encode_event(json.dumps(piece, ensure_ascii=False).encode()) for piece in pieces) + DONE

    def told(cuts: list[int]) -> bytes:
        bridge = ResponsesBridge(responses_request(tools=TOOLS, stream=True))
        decoder = EventStream(ChatStream(None, usage_asked=True))
        out, rest = b"", raw
        for size in [*cuts, len(raw)]:
            part, rest = rest[:size], rest[size:]
            for piece in decoder.feed(part) if part else ():
                out += bridge.feed(piece).raw
        return out

    checked(told([]))
    assert told(sizes) == told([])
