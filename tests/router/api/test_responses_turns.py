"""Responses that are kept for the turns that follow."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.router.api.responses_served import (
    events_of,
    serving,
)
from tests.router.api.test_chat import assert_openai_error
from tests.support.router import live_router, manifest_for
from tests.support.upstream import (
    fail,
    say,
    scripted_upstream,
)


@pytest.mark.parametrize("stream", [False, True])
async def test_turns_follow_one_another(tmp_path: Path, stream: bool) -> None:
    """`previous_response_id` brings back the whole conversation, also from a stream, and only to its caller."""
    async with serving(tmp_path, say("First.")) as served:
        name = None
        for turn in range(3):
            body = {"model": "m", "input": f"turn {turn}", "previous_response_id": name, "stream": stream}
            answer = await served.post(body)
            assert answer.status_code == 200, answer.text
            response = events_of(answer.content)[-1]["response"] if stream else answer.json()
            assert response["previous_response_id"] == name
            name = response["id"]
        said = [(message["role"], message["content"]) for message in served.seen()["messages"]]
        assert said == [
            ("user", "turn 0"),
            ("assistant", "First."),
            ("user", "turn 1"),
            ("assistant", "First."),
            ("user", "turn 2"),
        ]
        assert name is not None
        items = (await served.client.responses.input_items.list(name, order="asc")).data
        assert len(items) == 5
        assert len({item.id for item in items}) == 5


async def test_responses_are_read_and_deleted(tmp_path: Path) -> None:
    """A stored response is what was answered; a deleted one, or one that was not to be stored, is nowhere."""
    async with serving(tmp_path, say("Hello.")) as served:
        responses = served.client.responses
        made = await responses.create(model="m", input="Hi", metadata={"a": "b"})
        read = await responses.retrieve(made.id)
        assert read.to_dict() == made.to_dict()
        assert read.metadata == {"a": "b"}
        listed = await responses.input_items.list(made.id)
        assert listed.data[0].to_dict()["content"] == [{"type": "input_text", "text": "Hi"}]
        await responses.delete(made.id)
        for gone in (responses.retrieve(made.id), responses.delete(made.id)):
            with pytest.raises(openai.NotFoundError) as caught:
                await gone
            assert caught.value.body["message"] == f"Response with id '{made.id}' not found."  # type: ignore[index]
        with pytest.raises(openai.BadRequestError) as refused:
            await responses.create(model="m", input="And?", previous_response_id=made.id)
        assert refused.value.code == "previous_response_not_found"
        unstored = await responses.create(model="m", input="Hi", store=False)
        with pytest.raises(openai.NotFoundError):
            await responses.retrieve(unstored.id)


async def test_responses_belong_to_their_caller(tmp_path: Path) -> None:
    """A key cannot read, follow or delete what another was answered."""
    async with serving(tmp_path, say("Secret.")) as served:
        keys = [await asyncio.to_thread(served.router.store.create_key, name) for name in ("one", "two")]
        await served.router.refresh()
        mine, theirs = ({"authorization": f"Bearer {key.key}"} for key in keys)
        made = await served.post({"model": "m", "input": "Hi"}, **mine)
        path = f"/v1/responses/{made.json()['id']}"
        client = served.router.client
        assert (await client.get(path, headers=mine)).status_code == 200
        for answer in (
            await client.get(path, headers=theirs),
            await client.get(f"{path}/input_items", headers=theirs),
            await client.delete(path, headers=theirs),
        ):
            assert answer.status_code == 404
            assert_openai_error(answer, "not_found")
        follow = {"model": "m", "input": "Hi", "previous_response_id": made.json()["id"]}
        assert (await served.post(follow, **theirs)).status_code == 400
        assert (await served.post(follow, **mine)).status_code == 200
        assert (await client.get(path)).status_code == 401


async def test_conversation_keeps_its_privacy(tmp_path: Path) -> None:
    """What was said under a privacy level travels no further in the turns that follow, whatever they ask for."""
    async with scripted_upstream() as near, scripted_upstream() as far:
        manifest = manifest_for(near.url, far.url).replace("tier: external", "tier: local", 1)
        async with live_router(tmp_path, manifest) as router:
            body: dict[str, Any] = {"model": "m", "input": "A secret."}
            first = await router.client.post("/v1/responses", json=body, headers={"x-router-privacy": "local"})
            near.script = fail(500)
            item = {"type": "item_reference", "id": first.json()["output"][0]["id"]}
            for following in ({"previous_response_id": first.json()["id"]}, {"input": [item]}):
                assert (await router.client.post("/v1/responses", json={**body, **following})).status_code == 502
            assert far.requests == []
            assert (await router.client.post("/v1/responses", json=body)).status_code == 200


async def test_items_are_found_by_reference(tmp_path: Path) -> None:
    """An item of a stored response may be named instead of being repeated."""
    async with serving(tmp_path, say("Blue.")) as served:
        made = await served.client.responses.create(model="m", input="Colour?")
        reference: Any = {"type": "item_reference", "id": made.output[0].id}
        await served.client.responses.create(model="m", input=[reference, {"role": "user", "content": "Why?"}])
        assert served.seen()["messages"] == [
            {"role": "assistant", "content": "Blue."},
            {"role": "user", "content": "Why?"},
        ]
