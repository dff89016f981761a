"""The reference page of the charts' values says what their comments and schemas say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.chart_values import Value, chart_values_page, values_of

VALUES = """\
# A word on the file.

# -- What it is called;
# empty: nothing.
name: ""
limits:
  # Not a description.
  # -- `auto`, or a number | of tokens.
  length: auto
  # -- What a worker gets.
  resources:
    requests: {cpu: 1}
"""
SCHEMA = {
    "properties": {
        "name": {"type": "string"},
        "limits": {"$ref": "#/$defs/limits"},
    },
    "$defs": {
        "limits": {
            "properties": {
                "length": {"oneOf": [{"const": "auto"}, {"type": "integer"}]},
                "resources": {"type": "object"},
            }
        }
    },
}


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A chart of three values."""
    folder = tmp_path / "chart"
    folder.mkdir()
    (folder / "Chart.yaml").write_text("name: sample\ndescription: A sample.\n", encoding="utf-8")
    (folder / "values.yaml").write_text(VALUES, encoding="utf-8")
    (folder / "values.schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    return folder


def test_values_are_read_from_comments_and_schema(chart: Path) -> None:
    """A description may go on over lines; a described mapping is one value."""
    assert values_of(chart) == [
        Value("name", "text", '""', "What it is called; empty: nothing."),
        Value("limits.length", "`auto`, or integer", "auto", "`auto`, or a number | of tokens."),
        Value("limits.resources", "mapping", '{"requests": {"cpu": 1}}', "What a worker gets."),
    ]


def test_value_without_a_description_is_named(chart: Path) -> None:
    """No value goes undocumented, and no description goes to the wrong one."""
    (chart / "values.yaml").write_text(VALUES + "  depth: 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"limits\.depth has no description"):
        values_of(chart)


def test_page_lists_every_chart(chart: Path) -> None:
    """Each under its own name, its cells safe in a table."""
    page = chart_values_page("<!-- written -->\n", chart.parent)
    assert page.startswith("<!-- written -->\n\n# Chart values\n")
    assert "## sample\n\nA sample. In `worker_cluster/chart/`.\n" in page
    assert r"| `limits.length` | `auto`, or integer | `auto` | `auto`, or a number \| of tokens. |" in page
