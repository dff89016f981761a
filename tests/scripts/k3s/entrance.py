"""The entrance of a cluster that is not there: a real HTTP server that answers as vLLM behind Envoy does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "simulated-model"
USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
KINDS = ("models", "chat", "stream", "bad model")


def _sse(*events: Any) -> str:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {line}\n\n" for line in lines)


def _chunk(text: str | None, usage: dict[str, int] | None = None) -> dict[str, Any]:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices, "usage": usage}


def _whole() -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": USAGE}


GOOD: dict[str, tuple[int, str]] = {
    "models": (
        200,
        json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 8192}]}),
    ),
    "chat": (200, json.dumps(_whole())),
    "stream": (200, _sse(_chunk("hel"), _chunk("lo"), _chunk(None, USAGE), "[DONE]")),
    "bad model": (404, json.dumps({"error": {"message": "no such model", "type": "NotFoundError", "code": 404}})),
}


class Entrance(ThreadingHTTPServer):
    """The server; `answers` says what comes for each kind of request, `seen` what came, as kind and bearer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = dict(GOOD)
        self.seen: list[tuple[str, str | None]] = []

    @property
    def kinds(self) -> list[str]:
        """What was asked, in order."""
        return [kind for kind, _ in self.seen]


class _Handler(BaseHTTPRequestHandler):
    server: Entrance

    def do_GET(self) -> None:
        """List the models."""
        self._answer("models" if self.path == "/v1/models" else "unknown path")

    def do_POST(self) -> None:
        """Answer a chat."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert body["messages"], "a chat has messages"
        if body["model"] != MODEL:
            self._answer("bad model")
        elif body.get("stream"):
            assert body["stream_options"] == {"include_usage": True}
            self._answer("stream")
        else:
            self._answer("chat")

    def _answer(self, kind: str) -> None:
        self.server.seen.append((kind, self.headers.get("authorization")))
        status, text = self.server.answers[kind]
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", "text/event-stream" if text.startswith("data:") else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


@contextmanager
def entrance() -> Iterator[Entrance]:
    """Run an entrance while the context lasts."""
    with Entrance() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
