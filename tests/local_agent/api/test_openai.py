"""Tests of OpenAI's routes against a real agent, through OpenAI's own client where it can."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.support.agent import MODEL
from tests.support.process import Service

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
USAGE = (37, 7, 44)


@pytest.fixture(scope="module")
def sdk(agent: Service) -> Iterator[openai.OpenAI]:
    """OpenAI's client, pointed at the agent."""
    with openai.OpenAI(base_url=f"{agent.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_chat_answers_the_sdk(sdk: openai.OpenAI) -> None:
    """A chat completion is complete: text, reason, model and usage."""
    reply = sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION}]}], temperature=0
    )
    assert reply.choices[0].message.content == ANSWER
    assert (reply.choices[0].finish_reason, reply.model, reply.object) == ("stop", MODEL, "chat.completion")
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == USAGE


@pytest.mark.parametrize("include_usage", [False, True])
def test_chat_streams_to_the_sdk(sdk: openai.OpenAI, include_usage: bool) -> None:
    """Chunks share one id, the first has the role, one has the reason, usage comes only if asked for."""
    chunks = list(
        sdk.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": include_usage},
        )
    )
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == ANSWER
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert [chunk.choices for chunk in chunks if chunk.usage] == ([[]] if include_usage else [])
    assert [(u.prompt_tokens, u.completion_tokens, u.total_tokens) for u in usages] == ([USAGE] * include_usage)


def test_chat_stream_ends_with_done(client: httpx.Client) -> None:
    """`[DONE]` is the last thing on the wire."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "stream": True}
    response = client.post("/v1/chat/completions", json=body)
    assert response.content.endswith(b"\n\ndata: [DONE]\n\n")
    assert response.content.count(b"[DONE]") == 1
    first = json.loads(response.content.split(b"\n\n")[0].removeprefix(b"data: "))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_chat_takes_every_role(sdk: openai.OpenAI) -> None:
    """System, developer, assistant with tool calls, and tool turns are all part of the prompt."""
    reply = sdk.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "You are brief."},
            {"role": "developer", "content": "Be polite."},
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "w", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        ],
        max_completion_tokens=2,
        temperature=0,
    )
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 2


def test_chat_continues_a_final_message(sdk: openai.OpenAI) -> None:
    """With vLLM's `continue_final_message` the last assistant turn is continued, not answered."""
    reply = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "The capital of"}],
        temperature=0,
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    assert reply.choices[0].message.content == " France is Paris."


def test_completion_continues_raw_text(sdk: openai.OpenAI) -> None:
    """A raw completion applies no chat template."""
    reply = sdk.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=2, temperature=0)
    assert reply.choices[0].text == " Paris."
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (5, 2)


def test_completion_streams(sdk: openai.OpenAI) -> None:
    """Streamed pieces of a raw completion add up to the same text."""
    chunks = list(
        sdk.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=2, temperature=0, stream=True)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == " Paris."
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "length"]


def test_completion_defaults_to_sixteen_tokens(sdk: openai.OpenAI) -> None:
    """OpenAI's default length holds."""
    reply = sdk.completions.create(model=MODEL, prompt="One, two, three,", temperature=0)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 16


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    ("extra", "status", "param"),
    [
        ({"n": 2}, 400, "n"),
        ({"model": "gpt-5"}, 404, "model"),
        ({"model": None}, 400, "model"),
        ({"stream_options": 5}, 400, "stream_options"),
        ({"logit_bias": {"5": 100}}, 400, "logit_bias"),
    ],
)
def test_openai_routes_refuse_in_openais_shape(
    client: httpx.Client, path: str, extra: dict[str, object], status: int, param: str
) -> None:
    """What cannot be honoured is refused by name."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "prompt": "x", **extra}
    response = client.post(path, json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param


def test_sdk_reads_our_errors(sdk: openai.OpenAI) -> None:
    """OpenAI's client maps our errors to its own classes."""
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model_not_found"
