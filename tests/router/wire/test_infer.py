"""The agent's `/infer`: its payload, its answers and streams as chat completions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.types import Chunk, Usage
from router.wire.chat import parse_chat
from router.wire.infer import InferStream, infer_payload, parse_infer
from shared.errors import ContextLengthExceeded, ServiceError, UpstreamRejected, UpstreamUnavailable
from shared.sse import DONE, SSEEvent, SSEReader
from tests.support.nouns import CALLER, chat_request
from tests.support.properties import text

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "2 + 2?"}]},
    {"role": "assistant", "content": None, "tool_calls": []},
    {"role": "user", "content": "Well? é"},
]


def payload(accepts_messages: bool, **fields: Any) -> Any:
    """The payload for a chat request with `fields`."""
    return json.loads(infer_payload(chat_request(**fields), "up", accepts_messages)[0])


def event(data: Any) -> SSEEvent:
    """One event of an agent's stream."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return SSEEvent(b"data: " + raw + b"\n\n", raw)


def stream_of(*events: Any, reply_model: str | None = None, **fields: Any) -> list[Chunk]:
    """The chunks for an agent's stream, to the end of its bytes."""
    stream = InferStream(chat_request(stream=True, **fields), "up", reply_model, 1_700_000_000)
    chunks = [chunk for data in events for chunk in stream.feed(event(data))]
    return [*chunks, *stream.close()]


def told(chunks: list[Chunk]) -> list[Any]:
    """The JSON of the chunks that reach the client, `[DONE]` as it is."""
    events = SSEReader().feed(b"".join(chunk.raw for chunk in chunks))
    return [json.loads(one.data or b"") if one.data != b"[DONE]" else "[DONE]" for one in events]


# --- the payload ------------------------------------------------------------------------------


def test_infer_payload_is_the_documented_one_for_any_agent() -> None:
    """An agent that accepts no messages gets the four documented fields with their defaults and nothing else."""
    expected = {"prompt": "Hi", "max_tokens": 512, "temperature": 0.7, "stream": False}
    assert payload(False) == expected
    assert payload(False, top_p=0.5, stop=["x"], seed=1, user="u", temperature=None, max_tokens=None) == expected


def test_infer_payload_takes_the_clients_values() -> None:
    """Length, temperature and streaming are the client's."""
    sent = payload(False, max_completion_tokens=7, temperature=0, stream=True)
    assert (sent["max_tokens"], sent["temperature"], sent["stream"]) == (7, 0, True)


def test_infer_payload_renders_the_conversation_in_order() -> None:
    """Every turn stands in the prompt, by its role, and the assistant's turn comes next."""
    assert payload(False, messages=CONVERSATION)["prompt"] == (
        "System: Be brief.\n\nUser: What is\n2 + 2?\n\nAssistant: \n\nUser: Well? é\n\nAssistant:"
    )


def test_infer_payload_leaves_a_single_message_as_it_is() -> None:
    """One user message is the prompt itself, in text or in parts."""
    for content in ("as\nis", [{"type": "text", "text": "as\nis"}]):
        assert payload(False, messages=[{"role": "user", "content": content}])["prompt"] == "as\nis"


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), text), min_size=2, max_size=6))
def test_infer_payload_loses_no_turn(turns: list[tuple[str, str]]) -> None:
    """Every text is in the prompt, in its place."""
    prompt = payload(False, messages=[{"role": role, "content": said} for role, said in turns])["prompt"]
    position = 0
    for _, said in turns:
        position = prompt.index(said, position) + len(said)


def test_infer_payload_hands_messages_to_an_agent_that_accepts_them() -> None:
    """Such an agent gets the conversation, its model and the optional fields, and no prompt."""
    sent = payload(True, messages=CONVERSATION, top_p=0.5, stop=["x"], seed=1, top_k=None, logit_bias={"1": 2})
    assert sent == {
        "messages": CONVERSATION,
        "model": "up",
        "max_tokens": 512,
        "temperature": 0.7,
        "stream": False,
        "top_p": 0.5,
        "stop": ["x"],
        "seed": 1,
    }


def test_infer_payload_survives_numbers_that_no_parser_holds() -> None:
    """JSON may write numbers larger than any float; a message that does is still a message."""
    body = b'{"model":"m","messages":[{"role":"user","content":"Hi","x":1e99999}]}'
    request = parse_chat(body, "req_1", CALLER, {})
    assert json.loads(infer_payload(request, "up", accepts_messages=False)[0])["prompt"] == "Hi"
    assert b"1e99999" in infer_payload(request, "up", accepts_messages=True)[0]


# --- whole answers ----------------------------------------------------------------------------


def test_parse_infer_makes_a_chat_completion() -> None:
    """Text, finish reason, model and usage of a full answer, in OpenAI's shape."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    body = json.dumps({"text": "Hé", "finish_reason": "length", "model": "mistral", "usage": usage}).encode()
    whole = parse_infer(body, chat_request(), "up", None, 1_700_000_000)
    assert (whole.usage, whole.finish_reason) == (Usage(3, 2), "length")
    message = {"role": "assistant", "content": "Hé", "refusal": None}
    assert json.loads(whole.body) == {
        "id": "chatcmpl-req_1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "mistral",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}],
        "usage": Usage(3, 2).openai(),
    }


def test_parse_infer_needs_only_text() -> None:
    """What the agent does not say is the deployment's model, a stop, and an estimate."""
    whole = parse_infer(b'{"text":"12345"}', chat_request(), "up", None, 0)
    assert json.loads(whole.body)["model"] == "up"
    assert whole.finish_reason == "stop"
    assert whole.usage == Usage(1, 2, source="estimated")
    assert json.loads(parse_infer(b'{"text":"","model":"m"}', chat_request(), "up", "auto", 0).body)["model"] == "auto"


@pytest.mark.parametrize("usage", ["null", "7", "{}", '{"prompt_tokens":-1}', '{"prompt_tokens":null}'])
def test_parse_infer_is_not_lost_to_its_usage(usage: str) -> None:
    """A count that cannot be read does not cost the answer."""
    assert parse_infer(b'{"text":"x","usage":' + usage.encode() + b"}", chat_request(), "up", None, 0).usage is not None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", UpstreamUnavailable),
        (b"<html>", UpstreamUnavailable),
        (b"[]", UpstreamUnavailable),
        (b"{}", UpstreamUnavailable),
        (b'{"text":null}', UpstreamUnavailable),
        (b'{"text":5}', UpstreamUnavailable),
        (b'{"text":"\xff"}', UpstreamUnavailable),
        (b'{"text":"x","error":{"message":"died"}}', UpstreamUnavailable),
        (b'{"error":{"message":"bad","code":400}}', UpstreamRejected),
        (b'{"error":{"message":"too long","code":"context_length_exceeded"}}', ContextLengthExceeded),
    ],
)
def test_parse_infer_raises_what_is_no_answer(body: bytes, kind: type[ServiceError]) -> None:
    """Without text, or with an error, there is no answer."""
    with pytest.raises(ServiceError) as caught:
        parse_infer(body, chat_request(), "up", None, 0)
    assert type(caught.value) is kind


# --- streams ----------------------------------------------------------------------------------


def test_infer_stream_makes_chat_completion_chunks() -> None:
    """Role first, then each piece of text, one finish reason, the usage that was asked for, `[DONE]`."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    last = {"text": "", "done": True, "finish_reason": "length", "usage": usage}
    chunks = stream_of({"text": "H"}, {"text": "é"}, last, b"[DONE]", stream_options={"include_usage": True})
    *events, end = told(chunks)
    assert end == "[DONE]"
    deltas = [one["choices"][0]["delta"] for one in events[:-1]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "H"}, {"content": "é"}, {}]
    assert [one["choices"][0]["finish_reason"] for one in events[:-1]] == [None, None, None, "length"]
    assert [one["usage"] for one in events] == [None, None, None, None, Usage(3, 2).openai()]
    assert events[-1]["choices"] == []
    assert {(one["id"], one["created"], one["model"], one["object"]) for one in events} == {
        ("chatcmpl-req_1", 1_700_000_000, "up", "chat.completion.chunk")
    }
    assert [chunk.output for chunk in chunks] == [False, True, True, False, False, False]
    assert chunks[-1] == Chunk(DONE, done=True)
    assert chunks[-2].usage == Usage(3, 2)


def test_infer_stream_hides_usage_from_a_client_that_did_not_ask() -> None:
    """Accounting gets it, the client sees no usage at all."""
    chunks = stream_of({"text": "12345678"}, {"done": True})
    assert [chunk.usage for chunk in chunks if chunk.usage] == [Usage(1, 2, source="estimated")]
    assert all(one == "[DONE]" or "usage" not in one for one in told(chunks))


@pytest.mark.parametrize("ending", [[b"[DONE]"], [{"done": True}], [{"done": True}, b"[DONE]"], [b" [DONE] ", b"x"]])
@pytest.mark.parametrize("pieces", [[], [{"text": "a"}], [{"text": ""}, {"text": "a"}, {"text": None}]])
def test_infer_stream_tolerates_an_agent_that_sends_only_text(pieces: list[Any], ending: list[Any]) -> None:
    """However little the agent says of its end, the client's stream is whole: one role, one finish, one end."""
    events = told(stream_of(*pieces, *ending))
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [one["choices"][0]["finish_reason"] for one in events[:-1] if one["choices"]].count("stop") == 1
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events.count("[DONE]") == 1
    assert events[-1] == "[DONE]"


def test_infer_stream_names_the_model() -> None:
    """The agent's own name for it, unless the client asked for a policy."""
    pieces = [{"text": "a", "model": "mistral"}, {"done": True}]
    assert {one["model"] for one in told(stream_of(*pieces))[1:-1]} == {"mistral"}
    assert {one["model"] for one in told(stream_of(*pieces, reply_model="auto"))[:-1]} == {"auto"}


def test_infer_stream_skips_comments_and_empty_data() -> None:
    """Signs of life are no answer."""
    stream = InferStream(chat_request(stream=True), "up", None, 0)
    assert stream.feed(SSEEvent(b": ping\n\n", None)) == []
    assert stream.feed(SSEEvent(b"data:\n\n", b"")) == []


@pytest.mark.parametrize("before", [[], [{"text": "half"}]])
def test_infer_stream_raises_when_it_is_cut(before: list[Any]) -> None:
    """Bytes that end before the answer does are a failure, not an end."""
    with pytest.raises(UpstreamUnavailable, match="before its answer was complete"):
        stream_of(*before)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (
            {"error": {"message": "engine died", "type": "server_error", "param": None, "code": None}},
            UpstreamUnavailable,
        ),
        ({"error": "engine died"}, UpstreamUnavailable),
        ({"error": {"message": "bad", "code": 422}}, UpstreamRejected),
        (b"garbage", UpstreamUnavailable),
        (b'"text"', UpstreamUnavailable),
        ({"text": 7}, UpstreamUnavailable),
    ],
)
@pytest.mark.parametrize("before", [[], [{"text": "half"}]])
def test_infer_stream_raises_errors_in_band(before: list[Any], data: Any, kind: type[ServiceError]) -> None:
    """An error event, or one that is no event, ends the stream with our error at any point."""
    with pytest.raises(ServiceError) as caught:
        stream_of(*before, data)
    assert type(caught.value) is kind


@given(st.lists(text, max_size=6))
def test_infer_stream_says_what_the_whole_answer_says(pieces: list[str]) -> None:
    """Streamed or not, the text and its estimated length are the same."""
    chunks = stream_of(*({"text": piece} for piece in pieces), {"done": True})
    said = "".join(one["choices"][0]["delta"].get("content", "") for one in told(chunks)[:-1])
    body = json.dumps({"text": "".join(pieces)}).encode()
    whole = parse_infer(body, chat_request(), "up", None, 0)
    assert said == json.loads(whole.body)["choices"][0]["message"]["content"]
    assert [chunk.usage for chunk in chunks if chunk.usage] == [whole.usage]


@pytest.mark.parametrize(("accepts", "dropped"), [(True, ["logit_bias"]), (False, ["seed", "logit_bias"])])
def test_what_the_payload_has_no_words_for_is_told(accepts: bool, dropped: list[str]) -> None:
    """But for what asks for nothing."""
    fields = {"seed": 1, "logit_bias": {"1": 2}, "n": 1, "frequency_penalty": 0, "user": "u", "logprobs": False}
    _, changes = infer_payload(chat_request(**fields), "up", accepts)
    assert changes == [f"{name} dropped" for name in dropped]
