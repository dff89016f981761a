"""A stand-in for a service: a real process, small and quick to start (the standard library alone)."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

AGENT: dict[str, Any] = {
    "status": "ready",
    "phase": "idle",
    "progress": None,
    "device": "cpu",
    "model": "tiny-model",
    "requested_model": "big-model",
    "fallback_reason": "No GPU is here.",
}
ROUTER = {"status": "degraded", "checks": {"redis": {"status": "degraded", "detail": "Redis is away"}}}
MODELS = {"object": "list", "data": [{"id": "tiny-model"}]}


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _serve(role: str, port: int) -> None:
    loading = iter([25, 50] if role == "agent" else [])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer what `make dev` asks for."""
            status, body = 200, ROUTER if role == "router" else AGENT
            done = next(loading, None)
            if done is not None:
                progress = {"done": done * 10**6, "total": 100 * 10**6, "fraction": done / 100}
                status, body = 503, AGENT | {"phase": "downloading", "progress": progress, "model": None}
            if self.path == "/v1/models":
                body = MODELS
            self._answer(status, body)

        def do_POST(self) -> None:
            """End the process with the status that the path names."""
            _say("about to die")
            os._exit(int(self.path.rpartition("/")[2]))

        def _answer(self, status: int, body: Any) -> None:
            payload = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_request(self, *args: object) -> None:
            """Stay quiet."""

    _say(json.dumps({"level": "info", "message": "listening", "port": port}))
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def _service(role: str, port: int, behaviour: str) -> None:
    if behaviour == "crash":
        _say("cannot find the weights")
        sys.exit(3)
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "parent":
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        _say(f"grandchild {grandchild.pid}")
    _serve(role, port)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["agent", "router"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--behaviour", default="well")
    chosen = parser.parse_args()
    _service(chosen.role, chosen.port, chosen.behaviour)
