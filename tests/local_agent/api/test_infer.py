"""Tests of `POST /infer` against a real agent."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from local_agent.settings import AgentSettings
from shared.sse import SSEReader
from tests.support.agent import MODEL

QUESTION = "What is the capital of France?"


def events(response: httpx.Response) -> list[Any]:
    """Return the data of all events, JSON parsed, `[DONE]` as it is."""
    reader = SSEReader()
    parsed = [event.data for event in reader.feed(response.content) if event.data is not None]
    assert reader.close() == b""
    return [data.decode() if data == b"[DONE]" else json.loads(data) for data in parsed]


def infer(client: httpx.Client, **body: Any) -> dict[str, Any]:
    """Send a request that must succeed and return the answer."""
    response = client.post("/infer", json={"temperature": 0, "max_tokens": 16, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_infer_answers_a_bare_prompt_as_a_question(client: httpx.Client) -> None:
    """A prompt alone is one user turn: the model answers it instead of continuing it."""
    answer = infer(client, prompt=QUESTION)
    assert answer == {
        "text": "The capital of France is Paris.",
        "finish_reason": "stop",
        "model": MODEL,
        "usage": {"prompt_tokens": 37, "completion_tokens": 7, "total_tokens": 44},
    }
    assert infer(client, messages=[{"role": "user", "content": QUESTION}]) == answer


def test_infer_streams_the_same_answer(client: httpx.Client) -> None:
    """The stream's pieces add up to the whole answer, and its end carries the same usage."""
    whole = infer(client, prompt=QUESTION)
    response = client.post("/infer", json={"prompt": QUESTION, "temperature": 0, "max_tokens": 16, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *pieces, last, done = events(response)
    assert done == "[DONE]"
    assert all(set(piece) == {"text"} and piece["text"] for piece in pieces)
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    assert last == {
        "text": "",
        "done": True,
        "finish_reason": "stop",
        "model": MODEL,
        "usage": whole["usage"],
    }


def test_infer_stops_at_max_tokens(client: httpx.Client) -> None:
    """`max_tokens` is exact, and the reason is `length`."""
    answer = infer(client, prompt=QUESTION, max_tokens=3)
    assert (answer["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 3)
    assert answer["text"] == "The capital of"


@pytest.mark.parametrize("stream", [False, True])
def test_infer_never_shows_a_stop_string(client: httpx.Client, stream: bool) -> None:
    """A stop string that spans several tokens cuts the text in front of it, streamed or not."""
    body = {"prompt": QUESTION, "temperature": 0, "stop": ["ance is", "zzz"], "stream": stream}
    response = client.post("/infer", json=body)
    if stream:
        *pieces, last, _ = events(response)
        text, reason = "".join(piece["text"] for piece in pieces), last["finish_reason"]
    else:
        text, reason = response.json()["text"], response.json()["finish_reason"]
    assert (text, reason) == ("The capital of Fr", "stop")


def test_infer_prefill_continues_the_text(client: httpx.Client) -> None:
    """An answer cut anywhere, in mid-word too, continues to the same text: nothing is repeated or lost."""
    whole = infer(client, prompt=QUESTION)["text"]
    for cut in ("The", "The ", "The capital of Fr", "The capital of France is Paris", whole):
        answer = infer(client, prompt=QUESTION, prefill=cut)
        assert cut + answer["text"] == whole
        assert answer["finish_reason"] == "stop"
    assert (answer["usage"]["completion_tokens"], answer["usage"]["prompt_tokens"]) == (0, 44)


def test_infer_seed_repeats_and_temperature_varies(client: httpx.Client) -> None:
    """The same seed gives the same text; other seeds do not all."""
    body = {"prompt": "Tell me a story.", "temperature": 1.5, "top_p": 0.95, "top_k": 100, "max_tokens": 8}
    texts = [infer(client, **body, seed=seed)["text"] for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_infer_ignores_unknown_fields_and_nulls(client: httpx.Client) -> None:
    """Fields of other servers and explicit nulls do no harm."""
    answer = infer(client, prompt=QUESTION, max_tokens=1, foo={"bar": 1}, stop=None, seed=None, tools=None, n=1)
    assert answer["text"] == "The"


def test_infer_serves_numbers_beyond_every_machine_word(client: httpx.Client) -> None:
    """Absurd but valid integers are clamped instead of crashing something."""
    answer = infer(client, prompt=QUESTION, max_tokens=10**30, seed=10**40, top_k=10**30, stop="capital")
    assert answer["text"] == "The "


LONG = "word " * 9000
REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({}, "prompt", "invalid_request"),
    ({"prompt": ""}, "prompt", "invalid_request"),
    ({"prompt": 5}, "prompt", "invalid_request"),
    ({"prompt": ["a"]}, "prompt", "invalid_request"),
    ({"messages": []}, "messages", "invalid_request"),
    ({"messages": "hi"}, "messages", "invalid_request"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_request"),
    ({"messages": [{"role": "user"}]}, "messages[0]", "invalid_request"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "invalid_request"),
    ({"prompt": "x", "max_tokens": 0}, "max_tokens", "invalid_request"),
    ({"prompt": "x", "max_tokens": "5"}, "max_tokens", "invalid_request"),
    ({"prompt": "x", "max_tokens": 1.5}, "max_tokens", "invalid_request"),
    ({"prompt": "x", "max_tokens": True}, "max_tokens", "invalid_request"),
    ({"prompt": "x", "temperature": -0.1}, "temperature", "invalid_request"),
    ({"prompt": "x", "temperature": 2.1}, "temperature", "invalid_request"),
    ({"prompt": "x", "top_p": 0}, "top_p", "invalid_request"),
    ({"prompt": "x", "stream": "yes"}, "stream", "invalid_request"),
    ({"prompt": "x", "stop": [1]}, "stop", "invalid_request"),
    ({"prompt": "x", "tools": [{"type": "function"}]}, "tools", "invalid_request"),
    ({"prompt": "x", "response_format": {"type": "json_object"}}, "response_format", "invalid_request"),
    ({"prompt": "x", "logprobs": True}, "logprobs", "invalid_request"),
    ({"prompt": "x", "model": "gpt-5"}, "model", "model_not_found"),
    ({"prompt": LONG}, "prompt", "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": LONG}]}, "messages", "context_length_exceeded"),
]


@pytest.mark.parametrize(("body", "param", "code"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_infer_refuses_bad_fields_by_name(
    client: httpx.Client, body: dict[str, Any], param: str | None, code: str, stream: bool
) -> None:
    """Every bad field is OpenAI's error object with the field's name, streaming or not, never a 422."""
    response = client.post("/infer", json={"stream": stream, **body})
    assert response.status_code == (404 if code == "model_not_found" else 400)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert error["param"] is not None
    assert param is not None
    assert error["param"].startswith(param)


def test_infer_context_error_has_the_numbers(client: httpx.Client) -> None:
    """A prompt that is too long is told the context and its own length."""
    message = client.post("/infer", json={"prompt": LONG}).json()["error"]["message"]
    assert "context is 8192 tokens; the prompt has 9031 tokens" in message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b"\xff\xfe",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_infer_refuses_what_is_no_json_object(client: httpx.Client, content: bytes) -> None:
    """A body that cannot be read is a 400 in OpenAI's shape."""
    response = client.post("/infer", content=content)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_infer_refuses_an_oversized_body(client: httpx.Client) -> None:
    """A body over the limit is a 413 that names the limit, and the service goes on."""
    limit = AgentSettings.model_fields["body_limit"].default
    response = client.post("/infer", content=b" " * (limit + 1))
    assert response.status_code == 413
    assert str(limit) in response.json()["error"]["message"]
    assert infer(client, prompt=QUESTION, max_tokens=1)["text"] == "The"


def test_infer_fills_the_context_and_no_more(client: httpx.Client) -> None:
    """`max_tokens` beyond the context is cut to what is left, without an error."""
    answer = infer(client, prompt=QUESTION, max_tokens=100_000, stop=["."])
    assert answer["text"] == "The capital of France is Paris"
