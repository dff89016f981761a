"""What the documentation says to tell the charts: its commands and values render, its refusals are the real ones."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.docs.blocks import Block, blocks_of, pages
from tests.house.tree import ROOT
from tests.support.helm import CHARTS, Refused, render

PAGES = [page for page in pages() if "worker_cluster/chart" in page.read_text(encoding="utf-8")]
OURS = {f"worker_cluster/{path.parent.name}" for path in CHARTS.glob("*/Chart.yaml")}
VALUES = {"values of the chart": "chart", "values of the router's chart": "chart-router"}


class Told(NamedTuple):
    """One `helm` command of a page: the chart, and what it is told."""

    chart: str
    sets: tuple[str, ...]
    files: tuple[str, ...]


def _told(block: Block) -> list[Told]:
    """The `helm` commands of a block that name one of our charts."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        charts = [word for word in words if word.removeprefix("./") in OURS]
        if words[:1] == ["helm"] and charts:
            pairs = list(itertools.pairwise(words))
            sets = tuple(value for flag, value in pairs if flag in ("--set", "--set-string"))
            # What such a file holds is its reader's.
            sets += tuple(f"{value.partition('=')[0]}=from-a-file" for flag, value in pairs if flag == "--set-file")
            files = tuple(value for flag, value in pairs if flag in ("--values", "-f"))
            found.append(Told(charts[0].removeprefix("./"), sets, files))
    return found


def _refusal(page: Path, block: Block) -> str | None:
    """The text that a page shows right behind a command, where that is a refusal of the chart."""
    blocks = blocks_of(page)
    after = blocks[blocks.index(block) + 1 :][:1]
    shown = [each.text for each in after if each.language == "text" and re.match(r"\w+\.\w+\S* .+: ", each.text)]
    return shown[0] if shown else None


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_pages_are_found() -> None:
    """A rule over no pages would hold."""
    assert any(_told(block) for page in PAGES for block in blocks_of(page))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_render(page: Path) -> None:
    """Each `helm` command is taken by its chart, or refused with the words that the page shows."""
    written = {block.title: block.text for block in blocks_of(page) if block.title}
    for block in blocks_of(page):
        for told in _told(block) if block.language == "bash" else ():
            values = {key: value for name in told.files for key, value in yaml.safe_load(written[name]).items()}
            refusal = _refusal(page, block)
            if refusal is None:
                assert render(ROOT / told.chart, values, *told.sets), block.place
            else:
                with pytest.raises(Refused) as refused:
                    render(ROOT / told.chart, values, *told.sets)
                assert str(refused.value).endswith("\n" + refusal.strip()), block.place


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_values_render(page: Path) -> None:
    """Each file of values is taken by its chart."""
    for block in blocks_of(page):
        if block.language == "yaml" and block.skipped in VALUES:
            assert render(CHARTS / VALUES[block.skipped], yaml.safe_load(block.text)), block.place
