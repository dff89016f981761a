"""Every setting, error and metric is described, and the pages made from them are in step."""

from __future__ import annotations

import re

import pytest
from pydantic_settings import BaseSettings

from local_agent.settings import AgentSettings
from router.settings import RouterSettings
from scripts.reference import PAGES, main, settings_of
from tests.house.tree import ROOT

SETTINGS = pytest.mark.parametrize("settings", [RouterSettings, AgentSettings])


@SETTINGS
def test_every_setting_has_a_description(settings: type[BaseSettings]) -> None:
    """A setting without a sentence about it is not finished."""
    for setting in settings_of(settings):
        assert setting.description.strip().endswith("."), setting.variable


@SETTINGS
def test_every_setting_is_in_the_example_file(settings: type[BaseSettings]) -> None:
    """.env.example holds each variable once, commented, with its default."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    for setting in settings_of(settings):
        assert lines.count(f"# {setting.variable}={setting.default or ''}") == 1, setting.variable


def test_example_file_changes_nothing() -> None:
    """A fresh copy of .env.example sets no variable."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


@pytest.mark.parametrize("page", PAGES)
def test_generated_page_matches_the_code(page: str) -> None:
    """Run `make reference` when this fails."""
    assert (ROOT / page).read_text(encoding="utf-8") == PAGES[page](), f"{page} is out of step: run `make reference`"


def test_reference_check_names_what_is_out_of_step(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` fails on an empty folder, naming each page, and writes nothing; then writing heals it."""
    assert main(["--check"], tmp_path) == 1  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert all(page in out for page in PAGES)
    assert main([], tmp_path) == 0  # type: ignore[arg-type]
    assert main(["--check"], tmp_path) == 0  # type: ignore[arg-type]


def test_contract_names_the_defaults_of_the_code() -> None:
    """The variables in AGENTS.md's table have the defaults that the code has."""
    text = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `([A-Z_]+)`\s+\| .*? \| (\S+)\s*\|$", text, flags=re.MULTILINE))
    assert table == {
        "SQLITE_DB_PATH": "`data/models.db`",
        "REDIS_URL": "`redis://localhost:6379/0`",
        "LLMD_ENDPOINT": "unset",
    }
    defaults = {setting.variable: setting.default for setting in settings_of(RouterSettings)}
    for variable, shown in table.items():
        assert (f"`{defaults[variable]}`" if defaults[variable] else "unset") == shown
