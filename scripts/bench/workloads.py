"""The tests: what is asked, by how many at a time, and for how long."""

from __future__ import annotations

import json
from dataclasses import dataclass

__all__ = ["MODEL", "OPEN_STREAMS", "WORKLOADS", "Workload", "body"]

MODEL = "mock-model"
_PROSE = 'Lorem ipsum "dolor" sit amet, consectetur\nadipiscing elit, sed do eiusmod tempor incididunt ut labore. '
_MESSAGE_LIMIT = 8000


@dataclass(frozen=True, slots=True)
class Workload:
    """One test.

    Args:
        name: What it is called in results and on the command line.
        title: What it is, for people.
        connections: Requests that are open at a time.
        seconds: How long new requests are made.
        size: Bytes of a request's body.
        requests: Requests in all; 0: as many as fit into `seconds`.
        rate: Requests a second in an open loop; 0: a closed loop.
        chunks: Chunks of each streamed answer; 0: answers are JSON.
        pace_us: Microseconds between the chunks of a stream.
        open_first: Whether all connections are open before the clock starts.
        model: What is asked for; empty: the gateway's own name of the model.
    """

    name: str
    title: str
    connections: int
    seconds: float
    size: int = 1024
    requests: int = 0
    rate: float = 0.0
    chunks: int = 0
    pace_us: int = 0
    open_first: bool = False
    model: str = ""


def _streams(
    name: str, title: str, connections: int, requests: int, chunks: int, pace_us: int, *, open_first: bool = False
) -> Workload:
    return Workload(
        name, title, connections, 30.0, requests=requests, chunks=chunks, pace_us=pace_us, open_first=open_first
    )


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("conns-1", "closed loop, 1 connection, 1 KB", 1, 1.0),
        Workload("conns-16", "closed loop, 16 connections, 1 KB", 16, 1.0),
        Workload("conns-64", "closed loop, 64 connections, 1 KB", 64, 1.2),
        Workload("conns-256", "closed loop, 256 connections, 1 KB", 256, 1.2),
        Workload("rate-100", "open loop, 100 requests/s, 1 KB", 32, 2.0, rate=100.0),
        _streams("streams-20ms", "50 streams of 64 chunks, 20 ms pace", 50, 100, 64, 20_000),
        _streams("streams-5ms", "50 streams of 64 chunks, 5 ms pace", 50, 150, 64, 5_000),
        _streams("burst-2000", "2,000 streams of 8 chunks at once, 500 ms pace", 2000, 2000, 8, 500_000),
        _streams(
            "burst-2000-open",
            "the same over connections that are open before",
            *(2000, 2000, 8, 500_000),
            open_first=True,
        ),
        Workload("body-100k", "closed loop, 8 connections, 100 KB", 8, 0.8, size=100 * 1024),
        Workload("body-1m", "closed loop, 4 connections, 1 MB", 4, 0.8, size=1 << 20),
        Workload("body-10m", "closed loop, 1 connection, 10 MB", 1, 1.2, size=10 << 20),
        Workload("policy-64", "closed loop, 64 connections, 1 KB, by policy", 64, 1.2, model="bench-policy"),
    )
}

OPEN_STREAMS = _streams("open-streams", "1,000 open streams, for the memory of each", 1000, 1000, 10, 2_000_000)


def body(size: int, *, pace_us: int = 0, chunks: int = 0, model: str = MODEL) -> bytes:
    """Return a chat request of exactly `size` bytes: several messages of prose, as real conversations have.

    It is not deterministic by its own words (temperature), so no cache may answer it.

    Args:
        size: Bytes; at least 400.
        pace_us: Microseconds between the chunks that the mock is asked for.
        chunks: Chunks that the mock is asked for; 0: no stream.
        model: What to ask for.
    """
    system = f"pace:{pace_us}:{chunks}" if chunks else "You are a helpful assistant."
    messages = [{"role": "system", "content": system}]
    request = {"model": model, **({"stream": True} if chunks else {}), "temperature": 0.7, "max_tokens": 64}
    request["messages"] = messages

    def encoded() -> bytes:
        return json.dumps(request, separators=(",", ":")).encode()

    empty = len(json.dumps({"role": "user", "content": ""}, separators=(",", ":"))) + 1  # and the comma before it
    while (left := size - len(encoded()) - empty) > 0:
        wanted = min(left, _MESSAGE_LIMIT)
        if 0 < left - wanted <= empty:  # what remains must hold a message
            wanted -= 2 * empty
        text = (_PROSE * (wanted // len(_PROSE) + 1))[:wanted]
        while len(json.dumps(text)) - 2 > wanted:
            text = text[: wanted - (len(json.dumps(text)) - 2 - len(text))]
        messages.append({"role": "user", "content": text + "." * (wanted - len(json.dumps(text)) + 2)})
    return encoded()
