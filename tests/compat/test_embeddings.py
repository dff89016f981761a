"""Embeddings, legacy completions and the list of models, as the OpenAI SDK uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Completion, Model

from tests.support.actor.mind import TEXT
from tests.support.sdk import acted, whole, world

VECTOR = [0.25, -1.5, 3.0]


async def test_embeddings_are_base64_unless_asked_otherwise(tmp_path: Path) -> None:
    """The SDK asks for base64 by itself and decodes it; floats are floats."""
    async with acted(tmp_path) as there:
        packed = await there.openai.embeddings.create(model="m", input=["a", "b"])
        assert there.seen[-1].json["encoding_format"] == "base64"
        assert [item.embedding for item in packed.data] == [[0.0, *VECTOR], [1.0, *VECTOR]]
        plain = await there.openai.embeddings.create(model="m", input="a", encoding_format="float")
        assert plain.data[0].embedding == [0.0, *VECTOR]
        assert plain.usage.total_tokens == 4
        assert packed._request_id.startswith("req_")  # type: ignore[union-attr]


async def test_embedding_inputs_are_exact(tmp_path: Path) -> None:
    """Texts, token ids and lists of both reach the upstream as they are, dimensions and unknown fields too."""
    inputs: list[Any] = ["Grüße 🌍", ["a", "b"], [1, 2, 99999], [[1, 2], [3]]]
    async with acted(tmp_path) as there:
        for given in inputs:
            sent = {"model": "m", "input": given, "dimensions": 2, "user": "u", "input_type": "query"}
            answer = await there.router.client.post("/v1/embeddings", content=json.dumps(sent).encode())
            assert answer.status_code == 200, answer.text
            assert there.seen[-1].body == json.dumps({**sent, "model": "up"}).encode()
            assert there.seen[-1].path == "/v1/embeddings"


async def test_embeddings_keep_their_order(tmp_path: Path) -> None:
    """A hundred inputs give a hundred vectors, in order."""
    async with acted(tmp_path) as there:
        answer = await there.openai.embeddings.create(model="m", input=[str(number) for number in range(100)])
        assert [item.index for item in answer.data] == list(range(100))
        assert [item.embedding[0] for item in answer.data] == [float(number) for number in range(100)]


async def test_unknown_fields_of_embeddings_survive(tmp_path: Path) -> None:
    """The answer's bytes are the upstream's."""
    body = {"object": "list", "data": [], "model": "x", "usage": {"prompt_tokens": 1, "total_tokens": 1, "cost": 1e-9}}
    async with world(tmp_path, whole(body)) as there:
        answer = await there.router.client.post("/v1/embeddings", json={"model": "m", "input": "a"})
        assert answer.content == json.dumps(body).encode()


async def test_legacy_completions_answer(tmp_path: Path) -> None:
    """A whole answer, whatever kind of prompt it had, with all parameters passed on."""
    async with acted(tmp_path) as there:
        for prompt in ("Once", ["Once", "Twice"], [1, 2, 3], [[1, 2], [3]]):
            answer = await there.openai.completions.create(
                model="m", prompt=prompt, suffix="end", echo=True, best_of=1, logprobs=2, max_tokens=5
            )
            assert answer.choices[0].text == TEXT
            fields = {"suffix": "end", "echo": True, "best_of": 1, "logprobs": 2, "max_tokens": 5}
            assert there.seen[-1].json == {"model": "up", "prompt": prompt, **fields}
            assert there.seen[-1].path == "/v1/completions"


async def test_legacy_completions_stream(tmp_path: Path) -> None:
    """Text, one end, and usage only where it is asked for, in a chunk without choices."""
    async with acted(tmp_path) as there:
        options: Any = {"include_usage": True}
        stream = await there.openai.completions.create(model="m", prompt="x", stream=True, stream_options=options)
        asked = [part async for part in stream]
        assert "".join(part.choices[0].text for part in asked if part.choices) == TEXT
        assert (asked[-1].choices, asked[-1].usage and asked[-1].usage.total_tokens) == ([], 7)
        body = {"model": "m", "prompt": "x", "stream": True}
        answer = await there.router.client.post("/v1/completions", json=body)
        *events, done = [line[6:] for line in answer.text.split("\n\n") if line]
        assert done == "[DONE]"
        for event in map(json.loads, events):
            assert event["choices"]
            assert event.get("usage") is None
            # A chunk that is not the last has no finish reason, which the SDK's model does not provide for.
            Completion.model_validate({**event, "choices": [{**c, "finish_reason": "stop"} for c in event["choices"]]})


async def test_models_are_listed_and_retrieved(tmp_path: Path) -> None:
    """The SDK's own model validates each; names with slashes and aliases are found; ids do not change."""
    async with acted(tmp_path) as there:
        listed = (await there.openai.models.list()).data
        ids = [model.id for model in listed]
        assert {"m", "native", "claude"} <= set(ids)
        assert len(ids) == len(set(ids))
        for model in listed:
            Model.model_validate(model.to_dict())
        assert (await there.openai.models.retrieve("org/m")).id == "m"
        with pytest.raises(openai.NotFoundError):
            await there.openai.models.retrieve("org/nobody")
        assert ids == [model.id for model in (await there.openai.models.list()).data]
