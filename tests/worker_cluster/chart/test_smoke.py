"""The pod of `helm test`: its script is run here, against an entrance that is right, and ones that are not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.helm import render
from tests.support.process import clean_environment
from tests.support.upstream import ScriptedReply, SeenRequest, scripted_upstream
from tests.worker_cluster.cases import CHART

MODEL = "Qwen/Qwen3-4B-Instruct-2507"
LISTED = {"object": "list", "data": [{"id": MODEL}]}
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "Hello."}}]}


def smoke(*sets: str) -> Any:
    """The container of the smoke test."""
    (container,) = render(CHART, None, *sets).one("Pod", "-smoke")["spec"]["containers"]
    return container


async def run(port: int, variables: Mapping[str, str]) -> tuple[int, str, str]:
    """Run the script as the pod would, with `variables` over its own; return its status and what it printed."""
    container = smoke()
    own = {each["name"]: each["value"] for each in container["env"]}
    # A refusal is asked about once here, and not for half a minute.
    command = [part.replace("--retry 5 --retry-all-errors", "--retry 0") for part in container["command"]]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment({**own, "ENTRANCE": f"http://127.0.0.1:{port}", **variables}),
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


@pytest.mark.parametrize(
    ("models", "chat", "status", "told"),
    [
        ((200, LISTED), (200, ANSWER), 0, ""),
        ((200, {"data": []}), (200, ANSWER), 1, f"the entrance does not list {MODEL}"),
        ((200, LISTED), (200, {"error": "no"}), 1, "the entrance does not answer a chat"),
        ((503, {"error": "no"}), (200, ANSWER), 22, "503"),
        ((200, LISTED), (500, {"error": "no"}), 22, "500"),
    ],
)
async def test_smoke_tells_right_from_wrong(
    models: tuple[int, Any], chat: tuple[int, Any], status: int, told: str
) -> None:
    """It asks for the models and for one answer, and fails with a word on what is amiss."""

    async def entrance(request: SeenRequest, reply: ScriptedReply) -> None:
        code, body = models if request.method == "GET" else chat
        await reply.json(body, code)

    async with scripted_upstream(entrance) as upstream:
        code, _, errors = await run(upstream.port, {})
    assert code == status, errors
    assert told in errors


async def test_smoke_asks_for_the_served_model() -> None:
    """With a question that is JSON, and without a key where the entrance asks for none."""

    async def entrance(request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json(LISTED if request.method == "GET" else ANSWER)

    async with scripted_upstream(entrance) as upstream:
        await run(upstream.port, {})
    first, second = upstream.requests
    assert (first.path, second.path) == ("/v1/models", "/v1/chat/completions")
    assert second.json["model"] == MODEL
    assert "authorization" not in second.headers


async def test_smoke_sends_the_first_key() -> None:
    """A Secret holds one key a line; the first will do, and it is not printed."""

    async def entrance(request: SeenRequest, reply: ScriptedReply) -> None:
        await reply.json(LISTED if request.method == "GET" else ANSWER)

    async with scripted_upstream(entrance) as upstream:
        code, output, errors = await run(upstream.port, {"KEYS": "first-key\nsecond-key\n"})
    assert code == 0, errors
    assert [request.headers["authorization"] for request in upstream.requests] == ["Bearer first-key"] * 2
    assert "first-key" not in output + errors


@pytest.mark.parametrize(
    ("sets", "entrance"),
    [
        ((), "http://llm-d-gateway.llm-d.svc"),
        (("service.port=8080",), "http://llm-d-gateway.llm-d.svc:8080"),
        (("router.mode=external",), "http://llm-d-workers.llm-d.svc:8000"),
        (("router.mode=gateway",), "http://llm-d-gateway.llm-d.svc:80"),
        (("router.mode=gateway", "gateway.className=istio"), "http://llm-d-gateway-istio.llm-d.svc:80"),
        (
            (
                "router.mode=gateway",
                "gateway.create=false",
                "gateway.existingName=shared",
                "gateway.existingNamespace=gateways",
                "gateway.listenerPort=8080",
            ),
            "http://shared.gateways.svc:8080",
        ),
    ],
)
def test_smoke_goes_through_the_entrance(sets: tuple[str, ...], entrance: str) -> None:
    """The way that the router takes, whichever mode it is."""
    (address,) = [each["value"] for each in smoke(*sets)["env"] if each["name"] == "ENTRANCE"]
    assert address == entrance


def test_smoke_gets_its_key_from_the_secret() -> None:
    """By reference; the pod's own text says nothing of it."""
    (keys,) = [each for each in smoke("secrets.routerApiKeys.existingSecret=entrance")["env"] if each["name"] == "KEYS"]
    assert keys["valueFrom"] == {"secretKeyRef": {"name": "entrance", "key": "keys"}}


def test_smoke_runs_only_when_asked() -> None:
    """It is a hook of `helm test`, gone when it has succeeded, there to be read when it has not."""
    annotations = render(CHART).one("Pod", "-smoke")["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "test"
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
