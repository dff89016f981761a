"""A router process before an llm-d cluster: what it learns of it, tells it, and hides of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from router.registry.store import open_store
from tests.support.process import Service, router_process, routerctl
from tests.support.upstream import ScriptedReply, ScriptedUpstream, SeenRequest, chunk, completion, scripted_upstream
from tests.support.waiting import eventually

HELLO: Any = [{"role": "user", "content": "Hi"}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
KEY = "sk-of-the-cluster"


def worker(*adapters: str, model: str = "q", length: int = 32640) -> dict[str, Any]:
    """Return what one worker lists: a model, and adapters of it."""
    cards = [{"id": model, "object": "model", "root": "/models/q", "parent": None, "max_model_len": length}]
    cards += [{"id": a, "object": "model", "root": f"/a/{a}", "parent": model, "max_model_len": None} for a in adapters]
    return {"object": "list", "data": cards}


@dataclass
class Cluster:
    """What the scripted cluster does, which a test may change: its workers take turns."""

    upstream: ScriptedUpstream
    workers: Iterator[dict[str, Any]] = field(default_factory=lambda: cycle([worker()]))
    up: bool = True
    looks: int = 0

    async def __call__(self, request: SeenRequest, reply: ScriptedReply) -> None:
        """Answer as Envoy before vLLM would."""
        if not self.up:
            await reply.body(b"no healthy upstream", 503, {"content-type": "text/plain"})
        elif request.method == "GET":
            self.looks += 1
            await reply.json(next(self.workers), headers={"x-gateway-destination-endpoint-served": "10.0.0.9:8000"})
        elif request.path.endswith("/chat/completions"):
            await _chat(request, reply)
        else:
            await _text(request, reply)

    @property
    def asked(self) -> list[SeenRequest]:
        """The requests for answers."""
        return [request for request in self.upstream.requests if request.method == "POST"]


async def _chat(request: SeenRequest, reply: ScriptedReply) -> None:
    if not request.json.get("stream"):
        await reply.json(completion("Hello.", request.json["model"]))
        return
    options = request.json.get("stream_options") or {}
    beside: dict[str, Any] = {"usage": USAGE} if options.get("continuous_usage_stats") else {}
    await reply.start_stream()
    await reply.event(chunk({"role": "assistant", "content": ""}, **beside))
    await reply.event(chunk({"content": "Hello."}, **beside))
    await reply.event(chunk({}, "stop", **beside))
    if options.get("include_usage"):
        await reply.event(chunk(None, usage=USAGE))
    await reply.event("[DONE]")
    await reply.end_stream()


async def _text(request: SeenRequest, reply: ScriptedReply) -> None:
    await reply.start_stream()
    await reply.event({"object": "text_completion", "choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}]})
    if (request.json.get("stream_options") or {}).get("include_usage"):
        await reply.event({"object": "text_completion", "choices": [], "usage": USAGE})
    await reply.event("[DONE]")
    await reply.end_stream()


def states(folder: Path) -> list[str]:
    """Return what became of the last look at each source."""
    with closing(open_store(folder / "models.db")) as store:
        return [look.state for look in store.looks()]


def holding(folder: Path) -> str:
    """Return what the files of a folder hold."""
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


@dataclass
class Stack:
    """A router process before a cluster."""

    cluster: Cluster
    router: Service
    folder: Path
    client: httpx.AsyncClient

    async def ask(self, model: str = "q", key: str = "unused", content: str = "Hi", **options: Any) -> Any:
        """Send a chat request as users do; return the answer's head and body."""
        said: Any = [{"role": "user", "content": content}]
        async with openai.AsyncOpenAI(base_url=f"{self.router.url}/v1", api_key=key, max_retries=0) as sdk:
            return await sdk.chat.completions.with_raw_response.create(model=model, messages=said, **options)

    async def accepts(self, headers: dict[str, str]) -> bool:
        """Whether the router takes a key."""
        return (await self.client.get("/v1/models", headers=headers)).status_code == 200

    async def models(self) -> dict[str, Any]:
        """What the router offers, without its policies."""
        listed = (await self.client.get("/v1/models")).json()["data"]
        return {entry["id"]: entry for entry in listed if not entry.get("policy")}

    async def offers(self, **lengths: int | None) -> None:
        """Wait until it offers just these models, with these contexts."""
        wanted = {name.replace("_", "-"): length for name, length in lengths.items()}

        async def offered() -> bool:
            return {name: entry["context_length"] for name, entry in (await self.models()).items()} == wanted

        await eventually(offered)

    async def look(self, times: int = 1) -> None:
        """Wait until the router has looked at the cluster some more times, and written down what it saw."""
        wanted = self.cluster.looks + times + 1
        await eventually(lambda: self.cluster.looks >= wanted)

    def key(self, *arguments: str) -> dict[str, Any]:
        """Make a key."""
        made: dict[str, Any] = json.loads(routerctl(self.folder, "keys", "create", *arguments, "--json").stdout)
        return made


@asynccontextmanager
async def stack(folder: Path, *, up: bool = True, **env: str) -> AsyncIterator[Stack]:
    """Run a router process before a scripted cluster, which it looks at ten times a second."""
    async with scripted_upstream() as upstream:
        cluster = Cluster(upstream, up=up)
        upstream.script = cluster
        settings = {"LLMD_ENDPOINT": upstream.url.removesuffix("/v1"), "LLMD_REFRESH_SECONDS": "0.1", **env}
        with router_process(folder, settings) as router:
            async with httpx.AsyncClient(base_url=router.url, timeout=30, trust_env=False) as client:
                yield Stack(cluster, router, folder, client)


async def test_cluster_that_starts_without_workers_is_found_when_they_come(tmp_path: Path) -> None:
    """Until then it is known as waiting, and afterwards its models stay while it sleeps."""
    async with stack(tmp_path, up=False) as world:

        def waits() -> bool:
            return states(tmp_path) == ["empty"]

        await eventually(waits)
        assert "no workers yet" in routerctl(tmp_path, "backends", "list").stdout
        world.cluster.up = True
        await world.offers(q=32640)
        assert states(tmp_path) == ["ok"]
        assert (await world.ask()).parse().choices[0].message.content == "Hello."
        world.cluster.up = False
        await eventually(waits)
        await world.offers(q=32640)
        log = world.router.output()
    assert "no workers yet" in log
    assert "Traceback" not in log


async def test_cluster_without_workers_is_asked_for_its_named_models(tmp_path: Path) -> None:
    """`LLMD_MODELS` lets the first request come before the first worker, which it may wake."""
    env = {"LLMD_MODELS": "q, other", "ROUTER_COLD_START_SECONDS": "0"}
    async with stack(tmp_path, up=False, **env) as world:
        await world.offers(q=None, other=None)
        with pytest.raises(openai.APIStatusError) as refused:
            await world.ask()
        assert refused.value.status_code == 503
        assert world.cluster.asked[0].json["model"] == "q"
        world.cluster.up = True
        await world.offers(q=32640, other=None)


async def test_cluster_whose_workers_differ_is_offered_whole(tmp_path: Path) -> None:
    """Two workers are asked in turn: what either has is there, inherits its model's context, and is asked by name."""
    async with stack(tmp_path) as world:
        world.cluster.workers = cycle([worker("sql"), worker("law")])
        await world.offers(q=32640, sql=32640, law=32640)
        for _ in range(10):
            await world.look()
            assert set(await world.models()) == {"q", "sql", "law"}
        sql = (await world.models())["sql"]
        assert (sql["parent"], sql["max_model_len"], sql["tiers"]) == ("q", 32640, ["cluster"])
        await world.ask("sql")
        assert world.cluster.asked[-1].json["model"] == "sql"


async def test_cluster_is_followed_while_it_changes(tmp_path: Path) -> None:
    """A new context counts at once, a new adapter too; one that is unloaded goes after several looks."""
    async with stack(tmp_path) as world:
        await world.offers(q=32640)
        world.cluster.workers = cycle([worker("sql", length=4096)])
        await world.offers(q=4096, sql=4096)
        with pytest.raises(openai.BadRequestError) as refused:
            await world.ask("sql", content="x" * 16 * 5000)
        assert refused.value.code == "context_length_exceeded"
        world.cluster.workers = cycle([worker(length=4096)])
        await world.look(2)
        assert set(await world.models()) == {"q", "sql"}
        await world.offers(q=4096)


@pytest.mark.parametrize("transport", ["lean", "httpx"])
async def test_cluster_behind_a_key_gets_it_and_nobody_else_does(tmp_path: Path, transport: str) -> None:
    """`LLMD_API_KEY` goes with looks and requests; no client's key does, and it is shown nowhere."""
    async with stack(tmp_path, LLMD_API_KEY=KEY, ROUTER_TRANSPORT=transport) as world:
        await world.offers(q=32640)
        answer = await world.ask(key="sk-of-the-client")
        assert not [name for name in answer.headers if name.startswith("x-gateway")]
        assert {request.headers["authorization"] for request in world.cluster.upstream.requests} == {f"Bearer {KEY}"}
        shown = routerctl(tmp_path, "backends", "list", "--json").stdout + world.router.output()
        assert "LLMD_API_KEY" in shown
        assert KEY not in shown + str(await world.models())
        assert KEY not in holding(tmp_path)


async def test_cluster_schedules_by_the_routers_word_alone(tmp_path: Path) -> None:
    """Two keys with objectives of their own, whatever their clients claim."""
    forged = {
        "x-llm-d-inference-objective": "gold",
        "X-Gateway-Inference-Fairness-Id": "somebody",
        "x-gateway-destination-endpoint": "10.0.0.9:8000",
        "x-prefiller-host-port": "10.0.0.9:8000",
    }
    async with stack(tmp_path) as world:
        await world.offers(q=32640)
        keys = [world.key("--name", name, "--objective", name) for name in ("gold", "batch")] + [world.key()]
        for made in keys:
            await eventually(partial(world.accepts, {"authorization": f"Bearer {made['key']}"}))
            await world.ask(key=made["key"], extra_headers=forged, extra_body={"priority": -100})
        told = [
            {name: value for name, value in request.headers.items() if name.startswith(("x-llm", "x-gate", "x-pre"))}
            for request in world.cluster.asked
        ]
        assert told == [
            {"x-llm-d-inference-fairness-id": keys[0]["id"], "x-llm-d-inference-objective": "gold"},
            {"x-llm-d-inference-fairness-id": keys[1]["id"], "x-llm-d-inference-objective": "batch"},
            {"x-llm-d-inference-fairness-id": keys[2]["id"]},
        ]
        assert not any("priority" in request.json for request in world.cluster.asked)
        listed = routerctl(tmp_path, "keys", "list").stdout
    assert ["gold" in line or "batch" in line for line in listed.splitlines()] == [False, True, True, False]


CHAT, TEXT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
SAID: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO},
    TEXT: {"prompt": "Hi"},
    MESSAGES: {"messages": HELLO, "max_tokens": 5},
    RESPONSES: {"input": "Hi"},
}
BOTH = {"include_usage": True, "continuous_usage_stats": True}
STREAMS: list[tuple[str, dict[str, Any], set[int]]] = [
    (CHAT, {}, set()),
    (CHAT, {"stream_options": None}, set()),
    (CHAT, {"stream_options": {}}, set()),
    (CHAT, {"stream_options": {"include_usage": False}}, set()),
    (CHAT, {"stream_options": {"include_usage": None, "continuous_usage_stats": True}}, set()),
    (CHAT, {"stream_options": {"include_usage": True}}, {0}),
    (CHAT, {"stream_options": BOTH}, {0, 1}),
    (TEXT, {}, set()),
    (TEXT, {"stream_options": {"include_usage": False, "continuous_usage_stats": False}}, set()),
    (TEXT, {"stream_options": {"include_usage": True}}, {0}),
    (MESSAGES, {}, set()),
    (RESPONSES, {}, set()),
]
"""Path, options, and how many choices stand beside each kind of OpenAI usage that the client is to see."""


async def test_cluster_always_tells_usage_and_only_who_asked_sees_it(tmp_path: Path) -> None:
    """Whatever the client says of it, a stream is metered; its own usage events are what it asked for."""
    async with stack(tmp_path) as world:
        await world.offers(q=32640)
        for path, options, told in STREAMS:
            answer = await world.client.post(path, json={"model": "q", "stream": True, **SAID[path], **options})
            assert answer.status_code == 200, answer.text
            request = world.cluster.asked[-1]
            assert request.json["stream_options"]["include_usage"] is True, (path, options)
            events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
            seen = {len(event["choices"]) for event in events if event.get("usage") and "choices" in event}
            assert seen == told, (path, options)
            if path in (MESSAGES, RESPONSES):
                assert '"output_tokens":2' in answer.text.replace(" ", "")

        async def metered() -> bool:
            (total,) = json.loads(routerctl(tmp_path, "usage", "--json").stdout) or [{"requests": 0}]
            return bool(total["requests"] == len(STREAMS) and total["completion_tokens"] == 2 * len(STREAMS))

        await eventually(metered)
