"""The entrance of standalone mode, run: Envoy under what the chart renders, with a stand-in for the endpoint picker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.envoy import Envoy, envoy
from tests.support.helm import render
from tests.support.picker import Asked, Picker, Refusal, picker
from tests.support.process import free_port
from tests.support.upstream import ScriptedReply, ScriptedUpstream, SeenRequest, scripted_upstream
from tests.support.waiting import eventually
from tests.worker_cluster.cases import CHART

ENDPOINT = "x-gateway-destination-endpoint"
KEYS = "secrets.routerApiKeys.existingSecret=router-keys"
pytestmark = pytest.mark.asyncio(loop_scope="module")
QUESTION = {"model": "m", "messages": [{"role": "user", "content": "A secret prompt."}]}


@dataclass
class Entrance:
    """A running entrance and what stands behind it."""

    envoy: Envoy
    client: httpx.AsyncClient
    picker: Picker
    picked: ScriptedUpstream
    other: ScriptedUpstream

    def renewed(self) -> Entrance:
        """Return it with nothing seen, everything as it was."""
        self.picker.pick = self.pick
        self.picker.asked.clear()
        for worker in (self.picked, self.other):
            worker.script = _answer
            worker.requests.clear()
        return self

    def pick(self, _: Asked) -> dict[str, str]:
        """Name the worker that is picked."""
        return {ENDPOINT: f"127.0.0.1:{self.picked.port}"}

    async def ask(self, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
        """Send a question."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=QUESTION, headers=named)


@asynccontextmanager
async def entrance(folder: Path, *sets: str, away: bool = False, keys: str = "") -> AsyncIterator[Entrance]:
    """Run an entrance with two workers behind it: the one that is picked, and another that the Service names."""
    data = dict(render(CHART, {"engine": {"kind": "sim"}}, *sets).one("ConfigMap", "-proxy")["data"])
    if keys:
        data["keys.lua"] = data["keys.lua"].replace("local SECONDS = 10", "local SECONDS = 0")
    async with scripted_upstream() as picked, scripted_upstream() as other, picker() as asked:
        with envoy(data, folder, free_port() if away else asked.port, other.port, keys) as running:
            async with httpx.AsyncClient(base_url=running.url, timeout=30, trust_env=False) as client:
                yield Entrance(running, client, asked, picked, other).renewed()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def default_entrance(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Entrance]:
    """The entrance that most values render."""
    async with entrance(tmp_path_factory.mktemp("default")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed_entrance(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Entrance]:
    """One that asks for a key."""
    async with entrance(
        tmp_path_factory.mktemp("keyed"), KEYS, keys="key-of-the-router\n\nkey-of-another\n"
    ) as running:
        yield running


@pytest.fixture
def door(default_entrance: Entrance) -> Entrance:
    """The default entrance, as new."""
    return default_entrance.renewed()


@pytest.fixture
def keyed(keyed_entrance: Entrance) -> Entrance:
    """The entrance that asks for a key, as new."""
    return keyed_entrance.renewed()


async def test_a_request_goes_to_the_worker_that_was_picked(door: Entrance) -> None:
    """The picker sees the prompt and names the worker, which gets every byte of it."""
    answer = await door.ask(x_request_id="0e4b0a5c-53ae-4f4e-9d6c-0d3a4c9c1d0e")
    assert (answer.status_code, answer.json()["object"]) == (200, "chat.completion")
    (seen,), (asked,) = (door.picked.requests, door.picker.asked)
    assert (seen.path, seen.json) == ("/v1/chat/completions", QUESTION)
    assert json.loads(asked.body) == QUESTION
    assert asked.told == answer.content
    assert seen.headers["x-request-id"] == "0e4b0a5c-53ae-4f4e-9d6c-0d3a4c9c1d0e"
    assert not door.other.requests


async def test_a_long_prompt_passes_whole(door: Entrance) -> None:
    """Images come as megabytes of text; neither Envoy's buffers nor the picker's messages bound them."""
    prompt = "".join(f"{number:07d}" for number in range(1_500_000))
    answer = await door.client.post("/v1/chat/completions", json={"prompt": prompt})
    assert answer.status_code == 200
    assert door.picked.requests[0].json == {"prompt": prompt}


async def test_a_request_without_a_body_is_picked_too(door: Entrance) -> None:
    """The list of models comes from a worker that the picker names."""
    assert (await door.client.get("/v1/models")).status_code == 200
    assert [seen.path for seen in door.picked.requests] == ["/v1/models"]


async def test_a_stream_passes_as_it_comes(door: Entrance) -> None:
    """The first event is here before the worker has written the second; nothing waits for the end."""
    heard = asyncio.Event()

    async def script(_: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event("first")
        await heard.wait()
        await reply.event("second")
        await reply.end_stream()

    door.picked.script = script
    async with door.client.stream("POST", "/v1/chat/completions", json=QUESTION) as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"data: first\n\n"
        heard.set()
        assert b"".join([piece async for piece in pieces]) == b"data: second\n\n"


async def test_a_client_that_leaves_frees_the_worker(door: Entrance) -> None:
    """Envoy hangs up on the worker as soon as the client has hung up on Envoy."""
    door.picked.script = _endless
    async with door.client.stream("POST", "/v1/chat/completions", json=QUESTION) as answer:
        await anext(answer.aiter_raw())
    await asyncio.wait_for(door.picked.requests[0].closed_early.wait(), 20)


async def test_what_a_client_may_not_say_is_not_heard(door: Entrance) -> None:
    """No client chooses its worker or its prefill; what the router says of tenant and priority stays."""
    forged = {
        ENDPOINT: "127.0.0.1:1",
        f"{ENDPOINT}-subset": "127.0.0.1:1",
        "x-prefiller-host-port": "127.0.0.1:1",
        "x-encoder-hosts-ports": "127.0.0.1:1",
        "x-data-parallel-host-port": "127.0.0.1:1",
        "x-data-parallel-rank": "1",
        "x-kv-cache-source-host-port": "127.0.0.1:1",
        "authorization": "Bearer of-another-house",
    }
    answer = await door.ask(**forged, x_llm_d_inference_objective="batch")
    assert answer.status_code == 200
    asked, seen = (door.picker.asked[0].headers, door.picked.requests[0].headers)
    assert not forged.keys() & asked.keys()
    assert forged.keys() & seen.keys() == {ENDPOINT}
    assert seen[ENDPOINT] == f"127.0.0.1:{door.picked.port}"
    assert asked["x-llm-d-inference-objective"] == seen["x-llm-d-inference-objective"] == "batch"


async def test_a_picker_that_refuses_is_heard(door: Entrance) -> None:
    """Its status, its reason and its text reach the client as they are."""
    refusal = Refusal(
        429, b"inference error: ResourceExhausted", {"x-llm-d-request-dropped-reason": "rejected-saturated"}
    )
    door.picker.pick = lambda _: refusal
    answer = await door.ask()
    assert (answer.status_code, answer.content) == (429, refusal.body)
    assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-saturated"
    assert not door.picked.requests


async def test_fail_open_takes_any_worker(tmp_path: Path) -> None:
    """Without its picker the entrance goes to what the Service of all workers names."""
    async with entrance(tmp_path, away=True) as door:
        assert (await door.ask()).status_code == 200
        assert [seen.json for seen in door.other.requests] == [QUESTION]


async def test_fail_open_notices_that_the_picker_has_gone(tmp_path: Path) -> None:
    """A picker that dies is missed within a second or two, and requests go on without it."""
    async with entrance(tmp_path) as door:
        assert (await door.ask()).status_code == 200
        await door.picker.stop()

        async def goes_on() -> bool:
            return (await door.ask()).status_code == 200

        await eventually(goes_on)
        assert door.other.requests


async def test_fail_close_refuses(tmp_path: Path) -> None:
    """Without its picker the entrance refuses; no worker hears of it."""
    async with entrance(tmp_path, "router.epp.failureMode=FailClose", away=True) as door:
        assert (await door.ask()).status_code == 503
        assert not door.other.requests


async def test_fail_close_serves_what_is_picked(tmp_path: Path) -> None:
    """With its picker it is the same entrance."""
    async with entrance(tmp_path, "router.epp.failureMode=FailClose") as door:
        assert (await door.ask()).status_code == 200


async def test_a_key_is_asked_for(keyed: Entrance) -> None:
    """No key and a wrong one are told so in OpenAI's words, before anybody else hears of the request."""
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "key-of-another"}):
        answer = await keyed.ask(**headers)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/json"
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["code"] == "invalid_api_key"
    assert not keyed.picker.asked


async def test_a_known_key_lets_in_and_stays_outside(keyed: Entrance) -> None:
    """Any of the keys lets in; neither picker nor worker ever sees it."""
    for header in ("Bearer key-of-the-router", "bearer key-of-another"):
        assert (await keyed.ask(authorization=header)).status_code == 200
    assert not [seen for seen in keyed.picked.requests if "authorization" in seen.headers]
    assert not [asked for asked in keyed.picker.asked if "authorization" in asked.headers]


async def test_health_needs_no_key(keyed: Entrance) -> None:
    """Whoever only wants to know whether somebody is there may ask."""
    assert (await keyed.client.get("/health")).status_code == 200


async def test_an_unreadable_secret_lets_nobody_in(tmp_path: Path) -> None:
    """No keys are not the same as no need of one."""
    async with entrance(tmp_path, KEYS) as door:
        assert (await door.ask(authorization="Bearer anything")).status_code == 401
        (tmp_path / "keys" / "keys").unlink()
        assert (await door.ask(authorization="Bearer anything")).status_code == 401


async def test_a_changed_secret_counts_without_a_restart(tmp_path: Path) -> None:
    """A key that was added lets in, one that was taken away does not any more."""
    async with entrance(tmp_path, KEYS, keys="old-key") as door:
        assert (await door.ask(authorization="Bearer old-key")).status_code == 200
        (tmp_path / "keys" / "keys").write_text("new-key\n", encoding="utf-8")

        async def new_key_lets_in() -> bool:
            return (await door.ask(authorization="Bearer new-key")).status_code == 200

        await eventually(new_key_lets_in)
        assert (await door.ask(authorization="Bearer old-key")).status_code == 401


@pytest.mark.parametrize("path", ["/metrics", "/v1", "/reset_prefix_cache", "/v1/../metrics", "/"])
async def test_other_paths_are_closed(door: Entrance, path: str) -> None:
    """What vLLM serves beside the API is nobody's business here."""
    answer = await _raw(door.envoy, path)
    assert answer.startswith("HTTP/1.1 404")
    assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["code"] == "not_found"
    assert not door.picker.asked


async def test_the_log_tells_no_secrets(keyed: Entrance) -> None:
    """One line of JSON for each request, without its prompt, its key or its query."""
    await keyed.ask("/v1/chat/completions?api_key=hidden", authorization="Bearer key-of-the-router", x_request_id="r1")
    await eventually(lambda: "r1" in keyed.envoy.output())
    lines = [json.loads(line) for line in keyed.envoy.output().splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line["request_id"] == "r1"]
    assert (line["path"], line["status"], line["worker"]) == (
        "/v1/chat/completions",
        200,
        f"127.0.0.1:{keyed.picked.port}",
    )
    assert not [word for word in ("secret prompt", "key-of-the-router", "hidden") if word in keyed.envoy.output()]


async def test_status_shows_metrics_and_nothing_more(door: Entrance) -> None:
    """Prometheus reads its page; the admin interface has no way in."""
    await door.ask()
    async with httpx.AsyncClient(base_url=door.envoy.status, trust_env=False) as client:
        metrics = (await client.get("/stats/prometheus")).text
        assert 'envoy_response_code_class="2",envoy_http_conn_manager_prefix="entrance"' in metrics
        for path in ("/config_dump", "/quitquitquit", "/stats"):
            assert (await client.post(path)).status_code == 404


async def test_draining_waits_for_the_last_answer(tmp_path: Path) -> None:
    """The hook makes the pod unready, closes connections as they fall idle, and ends with the last stream."""
    done = asyncio.Event()

    async def script(_: SeenRequest, reply: ScriptedReply) -> None:
        await reply.start_stream()
        await reply.event("first")
        await done.wait()
        await reply.end_stream()

    async with entrance(tmp_path) as door, httpx.AsyncClient(base_url=door.envoy.status, trust_env=False) as status:
        door.picked.script = script
        async with door.client.stream("POST", "/v1/chat/completions", json=QUESTION) as answer:
            pieces = answer.aiter_raw()
            await anext(pieces)
            hook = await _drain(door.envoy, seconds=600)

            async def unready() -> bool:
                return (await status.get("/ready")).status_code == 503

            await eventually(unready)
            assert (await door.client.get("/nothing")).headers["connection"] == "close"
            assert hook.returncode is None
            done.set()
            assert [piece async for piece in pieces] == []
        _, complaints = await asyncio.wait_for(hook.communicate(), 60)
        assert (hook.returncode, complaints) == (0, b"")


async def test_draining_ends_after_its_time(tmp_path: Path) -> None:
    """An answer that does not end in time does not hold the pod."""
    async with entrance(tmp_path) as door:
        door.picked.script = _endless
        async with door.client.stream("POST", "/v1/chat/completions", json=QUESTION) as answer:
            await anext(answer.aiter_raw())
            hook = await _drain(door.envoy, seconds=1)
            assert await asyncio.wait_for(hook.wait(), 30) == 0


async def _answer(request: SeenRequest, reply: ScriptedReply) -> None:
    await reply.json({"object": "chat.completion" if request.body else "list"})


async def _endless(_: SeenRequest, reply: ScriptedReply) -> None:
    await reply.start_stream()
    await reply.event("first")
    await asyncio.Event().wait()


async def _drain(running: Envoy, seconds: int) -> Any:
    return await asyncio.create_subprocess_exec(
        "bash",
        running.config / "drain.sh",
        str(seconds),
        env={"PATH": "/usr/bin:/bin", "ADMIN_PORT": str(running.admin_port), "SETTLE_SECONDS": "0"},
        stderr=asyncio.subprocess.PIPE,
    )


async def _raw(running: Envoy, path: str) -> str:
    """Ask for a path as it is written; an HTTP client would tidy it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(running.url.rpartition(":")[2]))
    writer.write(f"GET {path} HTTP/1.1\r\nhost: entrance\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()
