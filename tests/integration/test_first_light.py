"""First light: an OpenAI SDK talks through a real router to a real model, with a real Valkey beside it."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.agent import MODEL, agent_process, readiness
from tests.support.process import Service, router_process, routerctl
from tests.support.valkey import ValkeyProcess

PARIS = [{"role": "user", "content": "What is the capital of France?"}]


@dataclass
class Stack:
    """The three services and where the registry lies."""

    router: Service
    agent: Service
    valkey: ValkeyProcess
    folder: Path

    @property
    def sdk(self) -> openai.OpenAI:
        """A client as users have it."""
        return openai.OpenAI(base_url=f"{self.router.url}/v1", api_key="unused", max_retries=0)

    def chat(self, **body: Any) -> httpx.Response:
        """Send one chat request."""
        whole = {"model": MODEL, "messages": PARIS, "temperature": 0, "max_tokens": 24, **body}
        return httpx.post(f"{self.router.url}/v1/chat/completions", json=whole, timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A ready stack: the router has found the agent by its URL."""
    folder = tmp_path_factory.mktemp("stack")
    with ValkeyProcess(tmp_path_factory.mktemp("valkey")) as valkey, agent_process() as agent:
        env = {"REDIS_URL": valkey.url, "LOCAL_AGENT_URL": agent.url}
        with router_process(folder, env) as router:
            wait_for_model(router, MODEL)
            yield Stack(router, agent, valkey, folder)


def wait_for_model(router: Service, model: str, listed: bool = True) -> None:
    """Wait until the router lists a model, or no longer does."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        answer = httpx.get(f"{router.url}/v1/models", timeout=5, trust_env=False)
        if (model in {entry["id"] for entry in answer.json()["data"]}) == listed:
            return
        time.sleep(0.02)
    raise AssertionError(f"{model} listed: {not listed}\n{router.output()}")


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def tokens_generated(agent: Service) -> float:
    """Return how many tokens the agent has generated so far."""
    text = httpx.get(f"{agent.url}/metrics", timeout=10, trust_env=False).text
    found = re.search(r"^local_agent_generated_tokens_total (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found.group(1))


def test_sdk_gets_a_sensible_answer_with_usage(stack: Stack) -> None:
    """A whole answer from SmolLM2 names Paris, and its usage adds up."""
    with stack.sdk as client:
        answer = client.chat.completions.create(model="auto", messages=PARIS, temperature=0)  # type: ignore[arg-type]
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.model == MODEL
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    assert 0 < answer.usage.completion_tokens < 30
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_sdk_streams_the_same_answer_with_the_same_usage(stack: Stack) -> None:
    """Streamed and whole answers agree to the character and to the token."""
    options: dict[str, Any] = {"model": MODEL, "messages": PARIS, "temperature": 0, "max_tokens": 24}
    off = {"x-router-cache": "off"}
    with stack.sdk as client:
        whole = client.chat.completions.create(**options, extra_headers=off)
        chunks = list(
            client.chat.completions.create(
                **options, extra_headers=off, stream=True, stream_options={"include_usage": True}
            )
        )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_identical_requests_are_answered_from_the_cache(stack: Stack) -> None:
    """The second of two deterministic requests is a hit, equal in content, streamed or not."""
    body = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 12}
    first, second = stack.chat(**body), stack.chat(**body)
    assert [answer.headers["x-router-cache"] for answer in (first, second)] == ["miss", "hit"]
    assert second.json()["choices"] == first.json()["choices"]
    assert second.headers["x-router-cost-usd"] == "0"
    streamed = stack.chat(**body, stream=True)
    assert streamed.headers["x-router-cache"] == "hit"
    events = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: {")]
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert text == first.json()["choices"][0]["message"]["content"]
    assert streamed.text.endswith("data: [DONE]\n\n")


def test_requests_succeed_without_valkey(stack: Stack) -> None:
    """With Valkey stopped the same requests succeed, slower; with it back the cache is too."""
    body = {"messages": [{"role": "user", "content": "Name a fruit."}], "max_tokens": 8}
    stack.valkey.stop()
    try:
        for _ in range(2):
            answer = stack.chat(**body)
            assert answer.status_code == 200
            assert answer.headers["x-router-cache"] != "hit"
        ready = httpx.get(f"{stack.router.url}/readyz", trust_env=False).json()
        assert ready["status"] == "degraded"
        assert ready["checks"]["redis"]["status"] == "degraded"
    finally:
        stack.valkey.start()
    until = time.monotonic() + 30
    while stack.chat(**body).headers["x-router-cache"] != "hit":
        assert time.monotonic() < until, stack.router.output()


def test_killed_worker_loses_no_answer(stack: Stack) -> None:
    """`kill -9` of the agent's worker in mid-generation: both kinds of answer are those of an unbroken run."""
    story = {"messages": [{"role": "user", "content": "Write a story about a dog."}], "max_tokens": 40}
    off = {"router": {"cache": "off"}}
    unbroken = stack.chat(**story, **off).json()["choices"][0]["message"]["content"]
    with ThreadPoolExecutor(1) as beside:
        before = tokens_generated(stack.agent)
        whole = beside.submit(stack.chat, **story, **off)
        # A request without a word yet would rightly be run again by the agent itself.
        wait_until(lambda: tokens_generated(stack.agent) > before + 3)
        body = {"model": MODEL, "temperature": 0, **story, **off, "stream": True}
        url = f"{stack.router.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=60, trust_env=False) as answer:
            coming = answer.iter_lines()
            lines = [next(line for line in coming if '"content":"' in line and '"content":""' not in line)]
            os.kill(int(str(readiness(stack.agent)["worker_pid"])), signal.SIGKILL)
            lines += [line for line in coming if line]
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert text == unbroken
    assert lines[-1] == "data: [DONE]"
    assert whole.result().json()["choices"][0]["message"]["content"] == unbroken
    after = stack.chat(router={"cache": "off"})
    assert after.status_code == 200, after.text
    assert "Paris" in after.json()["choices"][0]["message"]["content"]


def test_prompt_longer_than_the_context_is_refused(stack: Stack) -> None:
    """The agent counts the tokens, and the client gets the code it knows."""
    answer = stack.chat(messages=[{"role": "user", "content": "word " * 12_000}])
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "context_length_exceeded"
    assert re.search(r"\d{4,}", error["message"])
    assert stack.chat().status_code == 200


def test_second_server_joins_and_leaves_by_routerctl(stack: Stack) -> None:
    """An OpenAI-compatible server that is applied answers at once; taken out, it is gone."""
    manifest = stack.folder / "second.yaml"
    manifest.write_text(f"""
backends:
  - {{name: second, dialect: openai, base_url: {stack.agent.url}/v1, tier: local}}
models:
  - id: second-model
    deployments:
      - {{backend: second, upstream_model: {MODEL}, price: {{input: 0, output: 0}}}}
""")
    applied = routerctl(stack.folder, "apply", "-f", str(manifest))
    assert applied.returncode == 0, applied.stderr
    for streamed in (False, True):
        answer = stack.chat(model="second-model", stream=streamed)
        assert answer.status_code == 200
        assert answer.headers["x-router-backend"] == "second"
        assert "Paris" in answer.text
    assert stack.chat().headers["x-router-backend"] == "local"
    manifest.write_text("backends: []\nmodels: []\n")
    assert routerctl(stack.folder, "apply", "-f", str(manifest)).returncode == 0
    wait_for_model(stack.router, "second-model", listed=False)
    assert stack.chat(model="second-model").status_code == 404
    assert stack.chat().status_code == 200
