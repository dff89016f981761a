"""`generateContent` answers and streams as chat completions and chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import Chunk, Usage
from router.wire.decoders import EventStream
from router.wire.gemini.answers import parse_generated
from router.wire.gemini.requests import generate_payload
from router.wire.gemini.streams import GeminiStream
from shared.errors import ServiceError, UpstreamRateLimited, UpstreamRejected, UpstreamUnavailable
from shared.sse import DONE, SSEReader
from tests.support.gemini_upstream import USAGE, answer, call, candidate, error
from tests.support.nouns import chat_request
from tests.support.properties import json_values, splits, text

CREATED = 1_700_000_000
ASKED = {"stream": True, "stream_options": {"include_usage": True}}


def whole(body: Any, reply_model: str | None = None, **fields: Any) -> dict[str, Any]:
    """The completion for a backend's answer."""
    data = body if isinstance(body, bytes) else json.dumps(body, indent=2).encode()
    found = parse_generated(data, chat_request(**fields), "up", reply_model, CREATED)
    told: dict[str, Any] = json.loads(found.body)
    assert found.finish_reason == told["choices"][0]["finish_reason"]
    return told


def message(*parts: Any, **fields: Any) -> dict[str, Any]:
    """The message of a whole answer with these parts."""
    told: dict[str, Any] = whole(answer(candidate(*parts)), **fields)["choices"][0]["message"]
    return told


def chunks_of(*events: Any, reply_model: str | None = None, pieces: list[bytes] | None = None, **fields: Any) -> list[Chunk]:  # fmt: skip  # noqa: E501
    """The chunks for a backend's stream."""
    stream = EventStream(GeminiStream(chat_request(**(ASKED | fields)), "up", reply_model, CREATED))
    wire = pieces if pieces is not None else [b"data: " + json.dumps(one).encode() + b"\r\n\r\n" for one in events]
    chunks = [chunk for piece in wire for chunk in stream.feed(piece)]
    if stream.failure is not None:
        raise stream.failure
    return [*chunks, *stream.end()]


def told(chunks: list[Chunk]) -> list[Any]:
    """The JSON of the chunks that reach the client; `[DONE]` is last and left out."""
    events = SSEReader().feed(b"".join(chunk.raw for chunk in chunks))
    assert events[-1].data == b"[DONE]"
    return [json.loads(one.data or b"") for one in events[:-1]]


def joined(events: list[Any]) -> dict[int, dict[str, Any]]:
    """What a client makes of a stream: each choice's texts, calls and end."""
    choices: dict[int, dict[str, Any]] = {}
    for choice in (one for event in events for one in event["choices"]):
        said = choices.setdefault(choice["index"], {"content": "", "reasoning_content": "", "calls": {}, "finish": []})
        delta = choice["delta"]
        for name in ("content", "reasoning_content"):
            said[name] += delta.get(name) or ""
        for part in delta.get("tool_calls") or ():
            known = said["calls"].setdefault(part["index"], {"id": part["id"], "name": part["function"]["name"], "arguments": ""})  # fmt: skip  # noqa: E501
            known["arguments"] += part["function"]["arguments"]
        if choice["finish_reason"] is not None:
            said["finish"].append(choice["finish_reason"])
    return choices


# --- whole answers ----------------------------------------------------------------------------


def test_answer_becomes_a_chat_completion() -> None:
    """All that OpenAI's clients look at, in its shape."""
    usage = USAGE | {"thoughtsTokenCount": 3, "cachedContentTokenCount": 4, "toolUsePromptTokenCount": 1}
    assert whole(answer(candidate("Hé", "llo"), usage=usage)) == {
        "id": "chatcmpl-req_1",
        "object": "chat.completion",
        "created": CREATED,
        "model": "gemini-3-flash",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Héllo", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": Usage(8, 8, cached_tokens=4, reasoning_tokens=3).openai(),
    }
    assert whole(answer(candidate("x")), reply_model="auto")["model"] == "auto"
    bare = whole({"candidates": [candidate("x")]})
    assert (bare["model"], bare["usage"]) == ("up", None)


def test_answer_tells_thoughts_calls_and_pictures() -> None:
    """Each kind of part has its place in the message."""
    picture = {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
    parts = [{"text": "hm", "thought": True}, "Look.", call("f", {"b": 1, "a": [2.50, "é"]}), call("g", None, thoughtSignature="c2ln"), picture]  # fmt: skip  # noqa: E501
    said = message(*parts)
    assert (said["content"], said["reasoning_content"]) == ("Look.", "hm")
    first, second = said["tool_calls"]
    assert first["function"] == {"name": "f", "arguments": '{"b":1,"a":[2.5,"\\u00e9"]}'}
    assert second["function"] == {"name": "g", "arguments": "{}"}
    assert second["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    assert (first["type"], "index" in first, "extra_content" in first) == ("function", False, False)
    assert first["id"] != second["id"]
    assert max(len(first["id"]), len(second["id"])) <= 40
    assert said["images"][0]["image_url"] == {"url": "data:image/png;base64,AA=="}
    assert message(call("f", id="ignored"))["tool_calls"][0]["id"] == first["id"]
    given = {"functionCall": {"id": "theirs", "name": "f"}}
    assert message(given)["tool_calls"][0] == {"id": "theirs", "type": "function", "function": {"name": "f", "arguments": "{}"}}  # fmt: skip  # noqa: E501


def test_answer_with_calls_alone_has_no_content() -> None:
    """Null says that nothing was said; an empty answer is an empty text."""
    assert message(call("f"))["content"] is None
    assert whole(answer(candidate(call("f"))))["choices"][0]["finish_reason"] == "tool_calls"
    assert message()["content"] == ""
    assert whole(answer({"finishReason": "MAX_TOKENS"}))["choices"][0]["message"]["content"] == ""


def test_answer_keeps_the_signature_of_a_text() -> None:
    """It stands in the message and goes back with it."""
    said = message("So.", {"text": "", "thoughtSignature": "c2ln"})
    assert said["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    body, _ = generate_payload(chat_request(messages=[said]), "gemini-3-pro")
    assert json.loads(body)["contents"][0]["parts"] == [{"text": "So.", "thoughtSignature": "c2ln"}]


def test_answer_for_an_older_client_calls_a_function() -> None:
    """Who asks with `functions` is answered with `function_call`."""
    found = whole(answer(candidate(call("f", {"a": 1}))), functions=[{"name": "f"}])["choices"][0]
    assert found["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert found["finish_reason"] == "function_call"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("OTHER", "content_filter"),
        ("SOMETHING_NEW", "content_filter"),
    ],
)
def test_answer_ends_for_a_reason(reason: str, finish: str) -> None:
    """A stop and a limit are what they are; whatever else ends an answer has withheld some of it."""
    assert whole(answer(candidate("x", finish=reason)))["choices"][0]["finish_reason"] == finish
    assert joined(told(chunks_of(answer(candidate("x", finish=reason)))))[0]["finish"] == [finish]


def test_answer_has_a_choice_for_each_candidate() -> None:
    """In the order of their indexes, with or without them."""
    found = whole(answer(candidate("b", index=1), candidate("a", index=0)), n=2)["choices"]
    assert [(one["index"], one["message"]["content"]) for one in found] == [(0, "a"), (1, "b")]


def test_answer_that_was_blocked_is_a_refusal() -> None:
    """A prompt that was not let through has an answer that says so, whole and streamed."""
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}
    choice = whole(blocked)["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": "The prompt was blocked (SAFETY)."}
    events = told(chunks_of(blocked))
    assert events[1]["choices"][0]["delta"] == {"refusal": "The prompt was blocked (SAFETY)."}
    assert joined(events)[0]["finish"] == ["content_filter"]
    assert events[-1]["usage"]["prompt_tokens"] == 4


def test_answer_tells_log_probabilities() -> None:
    """Token by token, with the alternatives and their bytes."""
    chosen = [{"token": "é", "logProbability": -0.5}]
    result = {"chosenCandidates": chosen, "topCandidates": [{"candidates": [*chosen, {"token": "e"}]}]}
    said = candidate("é", logprobsResult=result)
    token = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    other = {"token": "e", "logprob": -9999.0, "bytes": [101]}
    expected = {"content": [token | {"top_logprobs": [token, other]}], "refusal": None}
    assert whole(answer(said))["choices"][0]["logprobs"] == expected
    assert told(chunks_of(answer(said)))[1]["choices"][0]["logprobs"] == expected


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", UpstreamUnavailable),
        (b"<html>", UpstreamUnavailable),
        (b"[]", UpstreamUnavailable),
        (b"{}", UpstreamUnavailable),
        (b'{"candidates":[]}', UpstreamUnavailable),
        (b'{"candidates":[{"content":{"parts":[{"text":"cut"}]}}]}', UpstreamUnavailable),
        (b'{"candidates":[{"finishReason":"MALFORMED_FUNCTION_CALL"}]}', UpstreamUnavailable),
        (b'{"candidates":[{"content":{"parts":[{"text":5}]}}]}', UpstreamUnavailable),
        (b'{"candidates":"\xff"}', UpstreamUnavailable),
        (json.dumps(error(503, "UNAVAILABLE")).encode(), UpstreamUnavailable),
        (json.dumps(error(429, "RESOURCE_EXHAUSTED")).encode(), UpstreamRateLimited),
        (json.dumps(error(400, "INVALID_ARGUMENT")).encode(), UpstreamRejected),
        (b'{"error":"?"}', UpstreamUnavailable),
    ],
)
def test_answer_that_is_none_is_an_error(body: bytes, kind: type[ServiceError]) -> None:
    """Whatever is no answer says whose fault it is, whole and streamed."""
    with pytest.raises(ServiceError) as caught:
        whole(body)
    assert type(caught.value) is kind
    with pytest.raises(ServiceError) as caught:
        chunks_of(pieces=[b"data: " + body + b"\n\n"])
    assert type(caught.value) is kind


@pytest.mark.parametrize("usage", [None, 7, {"promptTokenCount": -1}, {"promptTokenCount": "many"}])
def test_answer_is_not_lost_to_its_usage(usage: Any) -> None:
    """A count that cannot be read does not cost the answer."""
    assert whole({"candidates": [candidate("x")], "usageMetadata": usage})["usage"] is None


# --- streams ----------------------------------------------------------------------------------


def test_stream_becomes_chat_chunks() -> None:
    """Role first, one id and model, the finish reason once, the usage that was asked for, `[DONE]`."""
    events = [
        answer(candidate("H", finish=None), usage={"promptTokenCount": 7}),
        answer(candidate("é", finish="STOP"), modelVersion="later"),
    ]
    chunks = chunks_of(*events)
    found = told(chunks)
    deltas = [one["choices"][0]["delta"] for one in found[:-1]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "H"}, {"content": "é"}, {}]
    assert [one["choices"][0]["finish_reason"] for one in found[:-1]] == [None, None, None, "stop"]
    assert [one["usage"] for one in found] == [None, None, None, None, Usage(7, 5).openai()]
    assert found[-1]["choices"] == []
    assert {(one["id"], one["created"], one["model"], one["object"]) for one in found} == {
        ("chatcmpl-req_1", CREATED, "gemini-3-flash", "chat.completion.chunk")
    }
    assert [chunk.output for chunk in chunks] == [True, True, False, False, False]
    assert [chunk.usage for chunk in chunks] == [Usage(7, 0), Usage(7, 5), None, Usage(7, 5), None]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop", None, None]
    assert chunks[-1] == Chunk(DONE, done=True)


def test_stream_hides_usage_from_a_client_that_did_not_ask() -> None:
    """Accounting gets it, the client sees no usage at all; the model is the one that was asked for."""
    chunks = chunks_of(answer(candidate("x")), stream_options=None, reply_model="auto")
    assert chunks[0].usage == Usage(7, 5)
    assert all("usage" not in one and one["model"] == "auto" for one in told(chunks))


def test_stream_holds_back_the_end_that_every_event_tells() -> None:
    """Some models write a finish reason into each event: the last one counts."""
    found = told(chunks_of(answer(candidate("a")), answer(candidate("b")), answer(candidate("", finish="MAX_TOKENS"))))
    assert joined(found)[0] == {"content": "ab", "reasoning_content": "", "calls": {}, "finish": ["length"]}


def test_stream_of_metadata_commits_to_nothing() -> None:
    """A role, a signature or a count is no output: until there is some, another backend may answer."""
    silent = answer(candidate({"text": "", "thoughtSignature": "c2ln"}, finish=None))
    assert not any(chunk.output for chunk in chunks_of(silent, answer(candidate())))
    thought = answer(candidate({"text": "hm", "thought": True}, finish=None))
    assert chunks_of(thought, answer(candidate()))[0].output


@pytest.mark.parametrize("events", [[], [answer(candidate("half", finish=None))], [answer()]])
def test_stream_without_an_end_is_none(events: list[Any]) -> None:
    """Bytes that end before the answer does are never taken for a whole one."""
    with pytest.raises(UpstreamUnavailable):
        chunks_of(*events)


def test_stream_of_several_candidates_needs_every_end() -> None:
    """One choice that has ended does not end the other."""
    both = answer(candidate("a", index=0), candidate("b", index=1, finish=None))
    with pytest.raises(UpstreamUnavailable):
        chunks_of(both, n=2)
    found = joined(told(chunks_of(both, answer(candidate("c", index=1)), n=2)))
    assert {index: (one["content"], one["finish"]) for index, one in found.items()} == {
        0: ("a", ["stop"]),
        1: ("bc", ["stop"]),
    }


def test_stream_that_breaks_off_is_an_error_behind_what_was_said() -> None:
    """What came before it is told first."""
    stream = EventStream(GeminiStream(chat_request(**ASKED), "up", None, CREATED))
    data = [answer(candidate("a", finish=None)), error(503, "UNAVAILABLE")]
    chunks = stream.feed(b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in data))
    assert chunks[0].output
    assert isinstance(stream.failure, UpstreamUnavailable)


def test_stream_tolerates_the_habits_of_others() -> None:
    """Comments, empty data and a `[DONE]` of servers that only speak the dialect."""
    said = b"data: " + json.dumps(answer(candidate("a"))).encode() + b"\n\n"
    chunks = chunks_of(pieces=[b": hello\n\n", b"data:\n\n", said, b"data: [DONE]\n\n"])
    assert joined(told(chunks))[0]["finish"] == ["stop"]
    assert chunks[-1].raw.endswith(DONE)


# --- properties -------------------------------------------------------------------------------

parts = st.one_of(
    text.map(lambda said: {"text": said}),
    text.map(lambda said: {"text": said, "thought": True}),
    st.dictionaries(text, json_values, max_size=3).map(lambda args: call("f", args)),
)


@given(st.lists(st.lists(parts, max_size=3), min_size=1, max_size=4))
def test_stream_adds_up_to_the_whole_answer(events: list[list[Any]]) -> None:
    """The same parts, in one answer or spread over events: same texts, same calls, ids and arguments."""
    last = len(events) - 1
    streamed = [answer(candidate(*said, finish="STOP" if place == last else None)) for place, said in enumerate(events)]
    found = joined(told(chunks_of(*streamed)))[0]
    choice = whole(answer(candidate(*[part for said in events for part in said])))["choices"][0]
    assert found["content"] == (choice["message"]["content"] or "")
    assert found["reasoning_content"] == choice["message"].get("reasoning_content", "")
    assert found["finish"] == [choice["finish_reason"]]
    called = [{"id": one["id"], **one["function"]} for one in choice["message"].get("tool_calls", [])]
    assert list(found["calls"].values()) == called
    assert len({one["id"] for one in called}) == len(called)


@given(st.data())
def test_stream_is_the_same_under_any_split(data: st.DataObject) -> None:
    """However the network cuts the bytes, the client gets the same ones."""
    events = [answer(candidate("é", call("f", {"ü": "€"}), finish=None)), answer(candidate("\n", finish="STOP"))]
    wire = b"".join(b"data: " + json.dumps(one, ensure_ascii=False).encode() + b"\r\n\r\n" for one in events)
    pieces = data.draw(splits(wire))
    assert told(chunks_of(pieces=pieces)) == told(chunks_of(pieces=[wire]))


@given(st.lists(st.dictionaries(text, json_values, max_size=3), min_size=1, max_size=3))
def test_calls_survive_the_way_there_and_back(arguments: list[dict[str, Any]]) -> None:
    """A message that the client sends back holds the same calls, with their signatures."""
    made = [call("f", args, thoughtSignature=f"c2ln{place}") for place, args in enumerate(arguments)]
    said = message(*made)
    body, changes = generate_payload(chat_request(messages=[said]), "gemini-3-pro")
    back = json.loads(body)["contents"][0]["parts"]
    assert [part["functionCall"]["args"] for part in back] == arguments
    assert [part["thoughtSignature"] for part in back] == [part["thoughtSignature"] for part in made]
    assert changes == ()
