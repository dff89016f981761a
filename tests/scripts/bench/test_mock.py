"""The mock upstream answers as an OpenAI-compatible server does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scripts.bench.native import Tools
from scripts.bench.processes import Running, free_port
from scripts.bench.workloads import body
from tests.scripts.bench.support import WORDS, load


@pytest.fixture(scope="module")
def mock(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running mock's address."""
    port = free_port()
    running = Running((str(tools.mock), str(port)), tmp_path_factory.mktemp("mock") / "log")
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), trust_env=False) as client:
            assert client.get(f"{url}/stats").json()["connections"] == 1
        yield url
    finally:
        running.stop()


def _ask(mock: str, request: dict[str, object]) -> httpx.Response:
    return httpx.post(f"{mock}/v1/chat/completions", json=request, trust_env=False)


def test_mock_answers_with_the_words_that_are_checked(mock: str) -> None:
    """The one JSON answer."""
    answer = _ask(mock, {"model": "mock-model", "messages": []}).json()
    assert answer["choices"][0]["message"]["content"] == WORDS
    assert answer["usage"]["total_tokens"] == 99
    assert httpx.get(f"{mock}/v1/models", trust_env=False).json()["data"][0]["id"] == "mock-model"


@pytest.mark.parametrize("usage", [False, True])
def test_mock_streams_what_it_is_asked_for(mock: str, usage: bool) -> None:
    """A role, numbered chunks, an end, and the usage only where it is asked for."""
    request: dict[str, object] = {"stream": True, "messages": [{"role": "system", "content": "pace:1000:5"}]}
    if usage:
        request["stream_options"] = {"include_usage": True}
    lines = [line for line in _ask(mock, request).text.splitlines() if line]
    assert lines.pop() == "data: [DONE]"
    found = [json.loads(line.removeprefix("data: ")) for line in lines]
    if usage:
        assert found.pop()["usage"]["total_tokens"] == 99
    deltas = [event["choices"][0]["delta"] for event in found]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [int(delta["content"].partition("#")[2]) for delta in deltas[1:-1]] == [0, 1, 2, 3, 4]
    assert found[-1]["choices"][0]["finish_reason"] == "stop"


def test_mock_takes_large_and_chunked_bodies(mock: str) -> None:
    """A body need not come at once, nor with a length."""
    before = httpx.get(f"{mock}/stats", trust_env=False).json()
    large = body(3 << 20)
    pieces = (large[start : start + 70_001] for start in range(0, len(large), 70_001))
    for content in (large, pieces):
        answer = httpx.post(f"{mock}/v1/chat/completions", content=content, trust_env=False)
        assert answer.json()["choices"][0]["message"]["content"] == WORDS
    after = httpx.get(f"{mock}/stats", trust_env=False).json()
    assert after["bytes_in"] - before["bytes_in"] > 6 << 20


async def test_mock_and_load_agree(mock: str, tools: Tools, tmp_path: Path) -> None:
    """What one sends, the other counts: streams at a pace and without, and JSON."""
    port = mock.rpartition(":")[2]
    for pace, chunks, more in ((0, 64, ()), (500, 20, ()), (500, 20, ("-o",))):
        (tmp_path / "request.json").write_bytes(body(700, pace_us=pace, chunks=chunks))
        told = await load(tools, int(port), tmp_path, "-c", "8", "-n", "40", "-d", "60", "-s", str(chunks), *more)
        assert (told["good"], told["errors"], told["chunks"]) == (40, 0, 40 * chunks), told
        assert told["chunk_delay_us"]["count"] == 40 * chunks
    (tmp_path / "request.json").write_bytes(body(700))
    told = await load(tools, int(port), tmp_path, "-c", "8", "-d", "0.3")
    assert told["good"] == told["issued"] > 0
    assert told["errors"] == 0
    async with httpx.AsyncClient(trust_env=False) as client:
        stats = (await client.get(f"{mock}/stats")).json()
    assert (stats["open_streams"], stats["connections"]) == (0, 1)


def test_mock_says_that_its_port_is_taken(mock: str, tools: Tools) -> None:
    """A second one on the same port ends at once."""
    command = [str(tools.mock), mock.rpartition(":")[2]]
    reply = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    assert reply.returncode == 1
    assert "bind" in reply.stderr
