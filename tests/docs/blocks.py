"""Finds the code blocks of a page, and what its comments ask of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.house.tree import ROOT, files

TESTED = ("bash", "python", "yaml", "json", "jsonc")
UNTESTED = ("text", "mermaid", "console")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?P<options>.*)$")
_COMMENT = re.compile(r"^\s*<!-- (?P<kind>not run|prints): (?P<text>.+) -->$")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `skipped` is why it is not run, `prints` what its output has to hold."""

    page: Path
    line: int
    language: str
    text: str
    title: str | None = None
    skipped: str | None = None
    prints: str | None = None

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return every page with code for readers: the site and the README files."""
    return [
        path for path in files("*.md") if path.name not in ("AGENTS.md", "CHANGELOG.md") and ".github" not in path.parts
    ]


def blocks_of(page: Path) -> list[Block]:
    """Return a page's blocks in order."""
    blocks: list[Block] = []
    asked: dict[str, str] = {}
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if comment := _COMMENT.match(line):
            asked[comment["kind"]] = comment["text"]
        elif fence := _FENCE.match(line):
            start, indent = number, len(fence["indent"])
            while lines[number].strip() != "```":
                number += 1
            text = "\n".join(row[indent:] for row in lines[start:number]) + "\n"
            number += 1
            title = _TITLE.search(fence["options"])
            name = title[1] if title else None
            blocks.append(Block(page, start, fence["language"], text, name, asked.get("not run"), asked.get("prints")))
            asked = {}
        elif line.strip():
            asked = {}
    return blocks
