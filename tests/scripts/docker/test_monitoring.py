"""What Prometheus scrapes and Grafana shows are things that there are."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from scripts.reference import PAGES
from tests.house.tree import ROOT

FOLDER = ROOT / "scripts" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana/dashboards/router.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]


def _metrics() -> dict[str, set[str]]:
    """Return the metrics of both services, as they are scraped, with their labels."""
    found: dict[str, set[str]] = {}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", PAGES["docs/reference/metrics.md"](), flags=re.MULTILINE)
    for name, kind, labels in rows:
        known = set(re.findall(r"`(\w+)`", labels)) | {"instance", "job"}
        if kind == "histogram":
            found |= {f"{name}_bucket": known | {"le"}, f"{name}_sum": known, f"{name}_count": known}
        else:
            found[name] = known
    return found


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_shows_what_is_measured(panel: dict[str, Any]) -> None:
    """Every metric, and every label that is summed by or shown, is one of the services' own."""
    metrics = _metrics()
    assert panel["targets"]
    for target in panel["targets"]:
        names = re.findall(r"\b(?:router|local_agent)_\w+", target["expr"])
        assert names
        assert set(names) <= metrics.keys()
        labels = set.union(*(metrics[name] for name in names))
        used = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
        assert used | set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels


def test_every_metric_is_shown() -> None:
    """A metric that nobody sees in the dashboard is missing there."""
    shown = {name for panel in PANELS for target in panel["targets"] for name in re.findall(r"\w+", target["expr"])}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in _metrics()}
    told = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert families <= told


def test_panels_do_not_overlap() -> None:
    """Each panel has an id and a place of its own."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(column, row) for column in columns for row in rows}
        assert max(columns) < 24
        assert not taken & cells, panel["title"]
        taken |= cells


def test_panels_ask_the_source_that_is_provisioned() -> None:
    """The dashboard's data source is the one that Grafana is given, and that is the stack's Prometheus."""
    (source,) = yaml.safe_load((FOLDER / "grafana/datasources/prometheus.yml").read_text())["datasources"]
    asked = {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]}
    assert asked == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"


def test_dashboards_are_where_grafana_looks() -> None:
    """The provider's folder is the one that Compose mounts them at, and so is the home page."""
    (provider,) = yaml.safe_load((FOLDER / "grafana/providers/router.yml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert f"./scripts/monitoring/grafana/dashboards:{folder}:ro" in COMPOSE["grafana"]["volumes"]
    home = COMPOSE["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/router.json"


def test_prometheus_scrapes_services_of_the_stack() -> None:
    """Each target is a service of the Compose file, at its port."""
    jobs = {job["job_name"]: job for job in yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]}
    assert jobs.keys() == {"router", "agent", "vllm"}
    assert jobs.keys() <= COMPOSE.keys()
    assert jobs["router"]["static_configs"] == [{"targets": ["router:8000"]}]
    assert jobs["agent"]["static_configs"] == [{"targets": ["agent:5000"]}]
    assert jobs["vllm"]["dns_sd_configs"][0]["names"] == ["vllm"]
