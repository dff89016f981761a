"""The parts of `make dev` that need no process."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from scripts.dev.banner import banner
from scripts.dev.console import Console, readable
from scripts.dev.ports import PortTaken, Service, require_free
from scripts.dev.readiness import describe_phase
from scripts.dev.settings import DevSettings
from scripts.dev.valkey import embedded


@pytest.fixture
def occupied() -> Iterator[socket.socket]:
    """A socket that listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def web() -> Iterator[HTTPServer]:
    """An HTTP server that answers with its `reply` (headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        def version_string(self) -> str:
            return str(getattr(self.server, "name", "stranger"))

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(getattr(self.server, "reply", b"hello"))

        def log_request(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _service(port: int) -> Service:
    marks = frozenset({"status", "phase"})
    return Service("local agent", "127.0.0.1", port, f"http://127.0.0.1:{port}", "LOCAL_AGENT_PORT", marks)


async def test_require_free_accepts_a_free_port(occupied: socket.socket) -> None:
    """A port that nobody has is fine."""
    port = occupied.getsockname()[1]
    occupied.close()
    await require_free(_service(port))


async def test_require_free_names_the_setting(web: HTTPServer) -> None:
    """A stranger on the port: the message says so and how to move."""
    with pytest.raises(PortTaken, match=rf"another program.*LOCAL_AGENT_PORT={web.server_port + 1}"):
        await require_free(_service(web.server_port), platform="linux")


async def test_require_free_refuses_to_reuse_our_own(web: HTTPServer) -> None:
    """A service of ours on the port is named and not reused."""
    web.reply = json.dumps({"status": "ok", "phase": "idle"}).encode()  # type: ignore[attr-defined]
    with pytest.raises(PortTaken, match=r"local agent already runs.*reuses none"):
        await require_free(_service(web.server_port), platform="linux")


async def test_require_free_names_airplay(web: HTTPServer) -> None:
    """What answers as AirPlay is called AirPlay."""
    web.name = "AirTunes/845.5.1"  # type: ignore[attr-defined]
    with pytest.raises(PortTaken, match=r"AirPlay receiver.*LOCAL_AGENT_PORT"):
        await require_free(_service(web.server_port), platform="darwin")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("plain words", "plain words"),
        ('{"level":"info","message":"request","logger":"x","time":"t","status":200}', "info request status=200"),
        (
            '{"level":"error","message":"boom","exception":"Traceback\\nValueError"}',
            "error boom\nTraceback\nValueError",
        ),
        ('{"no":"log"}', '{"no":"log"}'),
        ("{broken", "{broken"),
    ],
)
def test_readable_unpacks_log_lines(line: str, expected: str) -> None:
    """JSON log lines become lines for people, others stay."""
    assert readable(line) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ""),
        ({"phase": "starting"}, "starting"),
        (
            {"phase": "downloading", "progress": {"done": 456e6, "total": 1e9}, "requested_model": "big"},
            "downloading big 40 % of 1000 MB",
        ),
        ({"phase": "restarting", "progress": None, "last_error": "killed"}, "restarting (last error: killed)"),
    ],
)
def test_describe_phase_is_short(fields: dict[str, object], expected: str) -> None:
    """What `/readyz` says becomes a few words, with progress in steps."""
    assert describe_phase(fields) == expected


def test_banner_asks_for_a_key_where_one_is_needed() -> None:
    """With keys in the registry the snippets show where the key goes."""
    text = banner("http://127.0.0.1:8000", {"model": "m"}, {}, 1.0, keyed=True)
    assert "authorization: Bearer <your key>" in text
    assert "routerctl keys create" in text


def test_console_survives_a_closed_stream() -> None:
    """A terminal that has gone away does not stop the stopping."""
    stream = io.StringIO()
    console = Console(stream)
    stream.close()
    console.say("still here")


def test_settings_connects_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent learns where the router is and announces itself, so the router need not look; both share the token."""
    for name in ("LOCAL_AGENT_ROUTER_URL", "LOCAL_AGENT_URL", "LOCAL_AGENT_TOKEN", "LOCAL_AGENT_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROUTER_HOST", "0.0.0.0")
    monkeypatch.setenv("ROUTER_PORT", "8123")
    monkeypatch.setenv("LOCAL_AGENT_PORT", "5123")
    monkeypatch.setenv("ROUTER_AGENT_TOKEN", "t0ken")

    environment = DevSettings().environment("redis://127.0.0.1:1/0")

    assert environment["LOCAL_AGENT_ROUTER_URL"] == "http://127.0.0.1:8123"
    assert environment["LOCAL_AGENT_URL"] == "off"
    assert environment["LOCAL_AGENT_TOKEN"] == "t0ken"
    assert environment["REDIS_URL"] == "redis://127.0.0.1:1/0"


def test_settings_leaves_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is to announce itself elsewhere does, and this router looks for it instead."""
    monkeypatch.setenv("LOCAL_AGENT_ROUTER_URL", "http://router.example:8000")
    monkeypatch.setenv("LOCAL_AGENT_PORT", "5123")
    monkeypatch.delenv("LOCAL_AGENT_URL", raising=False)

    environment = DevSettings().environment("")

    assert environment["LOCAL_AGENT_ROUTER_URL"] == "http://router.example:8000"
    assert environment["LOCAL_AGENT_URL"] == "http://127.0.0.1:5123"


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("redis://localhost:6379/0", True),
        ("redis://127.0.0.1", True),
        ("redis://redis.example:6379/0", False),
        ("rediss://localhost:6379/0", False),
        ("redis://user:pw@localhost:6379/0", False),
        ("unix:///tmp/redis.sock", False),
    ],
)
def test_embedded_listens_at_plain_local_addresses(url: str, same: bool, tmp_path: object) -> None:
    """Only a plain address of this machine is taken as it is."""
    stand = embedded(url, tmp_path)  # type: ignore[arg-type]
    assert (stand.url == url) is same
    assert stand.url.startswith("redis://")
