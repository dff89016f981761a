"""The tree, the tests and the docs share one outline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.house.tree import ROOT, files, short

SERVICES = ("router", "local_agent")


def _rooms(service: str) -> list[Path]:
    """The packages of a service that hold code."""
    folders = {path.parent for path in files(f"{service}/*.py") if path.name != "__init__.py"}
    return sorted(folder for folder in folders if folder != ROOT / service and "migrations" not in folder.parts)


def _nav(entry: Any) -> Iterator[str]:
    """The pages of a navigation tree."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for value in entry.values():
            yield from _nav(value)
    else:
        for value in entry:
            yield from _nav(value)


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose extension options name Python objects."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda _loader, suffix, _node: suffix)


@pytest.mark.parametrize("service", SERVICES)
def test_every_room_has_tests(service: str) -> None:
    """`router/x/y` is tested in `tests/router/x/y`, or in a file named after it."""
    for room in _rooms(service):
        place = ROOT / "tests" / room.relative_to(ROOT)
        beside = list(place.parent.glob(f"test_{room.name}*.py"))
        assert any(place.glob("**/test_*.py")) or beside, f"{short(room)} has no tests in {short(place)}"


@pytest.mark.parametrize("service", SERVICES)
def test_every_test_folder_mirrors_a_room(service: str) -> None:
    """A test folder that mirrors nothing is one that nobody finds."""
    for folder in {path.parent for path in files(f"tests/{service}/*.py")}:
        assert (ROOT / folder.relative_to(ROOT / "tests")).exists(), f"{short(folder)} mirrors no package"


@pytest.mark.parametrize("service", SERVICES)
def test_every_room_is_on_the_map(service: str) -> None:
    """The architecture page names each package of each service."""
    text = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    for room in _rooms(service):
        assert f"`{short(room)}/`" in text, f"{short(room)}/ is missing in docs/explanation/architecture.md"


def test_every_page_is_in_the_navigation() -> None:
    """A page that the navigation does not name cannot be found."""
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Loader)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in files("docs/*.md")}
    assert pages == set(_nav(config["nav"]))


def test_directories_named_in_the_contract_exist() -> None:
    """AGENTS.md names folders that are there, except those it says are coming."""
    text = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    named = re.findall(r"^/([\w/]+)/\s+(.*)$", text, flags=re.MULTILINE)
    assert len(named) >= 7
    for folder, remark in named:
        assert (ROOT / folder).is_dir() or "later issue" in remark, folder
