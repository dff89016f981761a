"""Tests of downloads against a hub that is a real HTTP server."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from local_agent.engine.download import DownloadFailed, download, stored_bytes
from local_agent.models import GIB, HubSource, ModelSpec

FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "model-00001-of-00002.safetensors": b"x" * 50_000,
    "model-00002-of-00002.safetensors": b"y" * 30_000,
    "consolidated.safetensors": b"z" * 90_000,
    "README.md": b"hello",
}
SHA = "0123456789abcdef0123456789abcdef01234567"
SPEC = ModelSpec(
    "tiny", (HubSource("org/gated"), HubSource("org/open", weights="model-*.safetensors")), 128, GIB, ("cpu",)
)


class Hub(ThreadingHTTPServer):
    """The part of the hub's protocol that a download uses."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _serve(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("authorization")))
        path = self.path.split("?")[0]
        if path.startswith(("/api/models/org/gated", "/org/gated")):
            self._answer(b'{"error": "gated"}', 403, x_error_code="GatedRepo", x_error_message="Accept the terms.")
        elif path.startswith("/api/models/org/open"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
            self._answer(json.dumps({"id": "org/open", "sha": SHA, "siblings": siblings}).encode())
        elif (name := path.rsplit("/", 1)[1]) in FILES:
            etag = hashlib.sha256(FILES[name]).hexdigest()
            self._answer(FILES[name], etag=f'"{etag}"', x_repo_commit=SHA)
        else:
            self._answer(b"", 404, x_error_code="EntryNotFound")

    do_GET = _serve  # noqa: N815
    do_HEAD = _serve  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with one gated and one open repository."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_takes_the_first_source_that_works(hub: Hub, tmp_path: Path) -> None:
    """A gated repository is passed over for an open one; only the files that serve are fetched."""
    directory = download(SPEC, tmp_path, None, lambda _done, _total: None, endpoint=hub.url)
    assert directory == tmp_path / "tiny-org--open"
    fetched = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    assert fetched.pop(".complete") == SHA.encode()
    assert fetched == {name: FILES[name] for name in FILES if name.startswith(("config", "tokenizer", "model-"))}
    assert {token for _, _, token in hub.asked} == {None}


def test_download_needs_no_network_the_second_time(hub: Hub, tmp_path: Path) -> None:
    """A complete model is used without asking anybody."""
    first = download(SPEC, tmp_path, None, lambda _done, _total: None, endpoint=hub.url)
    hub.asked.clear()
    assert download(SPEC, tmp_path, None, lambda _done, _total: None, endpoint=hub.url) == first
    assert hub.asked == []


def test_download_sends_the_configured_token(hub: Hub, tmp_path: Path) -> None:
    """A token from the settings goes to the hub."""
    download(SPEC, tmp_path, "hf_configured", lambda _done, _total: None, endpoint=hub.url)
    assert {token for _, _, token in hub.asked} == {"Bearer hf_configured"}


def test_download_failure_names_every_source(tmp_path: Path) -> None:
    """Without a hub the error says what failed for each source, and nothing is marked complete."""
    with pytest.raises(DownloadFailed) as caught:
        download(SPEC, tmp_path, None, lambda _done, _total: None, endpoint="http://127.0.0.1:1")
    assert "org/gated: " in str(caught.value)
    assert "org/open: " in str(caught.value)
    assert not list(tmp_path.rglob(".complete"))


def test_stored_bytes_counts_unfinished_files(tmp_path: Path) -> None:
    """Progress counts what is on disk, wherever below the folder it is."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "sub" / "b.incomplete").write_bytes(b"345")
    assert stored_bytes(tmp_path) == 5
