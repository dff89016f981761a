"""`POST /v1/embeddings` on a live router: bytes pass untouched, token ids too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.router.api.test_chat import assert_openai_error
from tests.support.router import live_router, manifest_for
from tests.support.upstream import ScriptedReply, SeenRequest, fail, scripted_upstream

# "AACAPwAAAMA=" is [1.0, -2.0] as little-endian floats.
BASE64 = (
    b'{"object":"list", "data":[{"object":"embedding","index":0,"embedding":"AACAPwAAAMA="}],\n'
    b'"model":"up-0","usage":{"prompt_tokens":8,"total_tokens":8}}'
)
FLOAT = (
    b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0,-2.000]}],'
    b'"model":"up-0","usage":{"prompt_tokens":8,"total_tokens":8}}'
)


async def backend(request: SeenRequest, reply: ScriptedReply) -> None:
    """Answer in the form that was asked for."""
    base64 = request.json.get("encoding_format") == "base64"
    await reply.body(BASE64 if base64 else FLOAT, headers={"content-type": "application/json"})


async def test_embeddings_pass_byte_for_byte(tmp_path: Path) -> None:
    """Inputs of every form go up with nothing but the model changed; the answer's bytes come back."""
    async with scripted_upstream(backend) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        for given in ("Hi", ["Hi", "Ho"], [1, 2], [[1, 2], [3]]):
            for form in ("base64", "float", None):
                body = {"model": "m", "input": given, "encoding_format": form, "dimensions": 2, "user": "u", "x": [1.0]}
                answer = await router.client.post("/v1/embeddings", json=body)
                assert answer.content == (BASE64 if form == "base64" else FLOAT)
                assert answer.headers["x-router-cost-usd"] == "0.000008"
                assert upstream.requests[-1].path == "/v1/embeddings"
                assert upstream.requests[-1].json == body | {"model": "up-0"}


async def test_embeddings_serve_the_sdk(tmp_path: Path) -> None:
    """The SDK asks for base64 by itself, and also reads floats of a backend that ignores that."""
    async with scripted_upstream(backend) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        client = openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0)
        assert (await client.embeddings.create(model="m", input="Hi")).data[0].embedding == [1.0, -2.0]
        assert upstream.requests[-1].json["encoding_format"] == "base64"

        async def stubborn(_request: SeenRequest, reply: ScriptedReply) -> None:
            await reply.body(FLOAT, headers={"content-type": "application/json"})

        upstream.script = stubborn
        assert (await client.embeddings.create(model="m", input=[[1, 2]])).data[0].embedding == [1.0, -2.0]
        await client.close()


async def test_embeddings_of_many_texts_fit_a_small_context(tmp_path: Path) -> None:
    """A batch is as long as its longest text, not as all of them together."""
    async with scripted_upstream(backend) as upstream:
        manifest = manifest_for(upstream.url).replace("aliases:", "context_length: 512\n    aliases:")
        async with live_router(tmp_path, manifest) as router:
            batch = {"model": "m", "input": ["word " * 300] * 100}
            assert (await router.client.post("/v1/embeddings", json=batch)).status_code == 200
            long = await router.client.post("/v1/embeddings", json={"model": "m", "input": ["word " * 9000]})
            assert long.status_code == 400
            assert_openai_error(long, "context_length_exceeded", "messages")


async def test_embeddings_name_the_model_that_a_policy_chose(tmp_path: Path) -> None:
    """Who asked for a policy reads the chosen model's id."""
    async with scripted_upstream(backend) as upstream, live_router(tmp_path, manifest_for(upstream.url)) as router:
        answer = await router.client.post("/v1/embeddings", json={"model": "auto", "input": "Hi"})
        assert answer.json() == json.loads(FLOAT) | {"model": "m"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [[1, 2], "x", 5]}, "input[2]"),
        ({"input": [1, 2.5]}, "input[1]"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": 5}, "encoding_format"),
        ({"model": None}, "model"),
    ],
)
async def test_embeddings_refuse_what_no_backend_could_read(tmp_path: Path, fields: Any, param: str) -> None:
    """A documented field with a wrong type is a 400 that names it."""
    async with live_router(tmp_path) as router:
        refused = await router.client.post("/v1/embeddings", json={"model": "m", "input": "Hi", **fields})
        assert refused.status_code == 400
        assert_openai_error(refused, "invalid_request", param)


async def test_embeddings_tell_errors(tmp_path: Path) -> None:
    """A missing input, a model that cannot, and a backend's own errors come in OpenAI's shape."""
    async with scripted_upstream(fail(400, {"error": {"message": "too many", "code": "x"}})) as upstream:
        manifest = manifest_for(upstream.url).replace("aliases:", "capabilities: [chat]\n    aliases:")
        async with live_router(tmp_path, manifest) as router:
            missing = await router.client.post("/v1/embeddings", json={"model": "m"})
            assert_openai_error(missing, "invalid_request", "input")
            incapable = await router.client.post("/v1/embeddings", json={"model": "m", "input": "Hi"})
            assert incapable.status_code == 400
            assert_openai_error(incapable, "no_candidate")
        async with live_router(tmp_path, manifest_for(upstream.url)) as router:
            refused = await router.client.post("/v1/embeddings", json={"model": "m", "input": "Hi"})
            assert refused.status_code == 400
            assert_openai_error(refused, "x")

            async def none(_request: SeenRequest, reply: ScriptedReply) -> None:
                await reply.body(b"<html>", headers={"content-type": "text/html"})

            upstream.script = none
            broken = await router.client.post("/v1/embeddings", json={"model": "m", "input": "Hi"})
            assert broken.status_code == 502
            assert_openai_error(broken, "upstream_unavailable")
