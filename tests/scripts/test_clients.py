"""The environments of the client libraries: made once, kept, and their absence explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.clients import clients, main


def declare(root: Path, name: str, text: str) -> None:
    """Declare a Python client."""
    place = root / "tests" / "clients" / "requirements" / f"{name}.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def test_environment_is_made_once(tmp_path: Path) -> None:
    """A client whose requirements have not changed keeps its environment; one whose have gets a new one."""
    declare(tmp_path, "nothing", "")
    told: list[str] = []
    assert main([], tmp_path, told.append) == 0
    assert "nothing is ready" in told[0]
    (client,) = clients(tmp_path)
    assert client.ready
    mark = client.folder / "mark"
    mark.touch()
    assert main(["nothing"], tmp_path, told.append) == 0
    assert mark.exists()
    declare(tmp_path, "nothing", "# news\n")
    assert not clients(tmp_path)[0].ready
    assert main([], tmp_path, told.append) == 0
    assert clients(tmp_path)[0].ready
    assert not mark.exists()
    assert len(told) == 2


def test_failed_installation_is_explained(tmp_path: Path) -> None:
    """What cannot be installed is told with the installer's own words, and the others go on."""
    declare(tmp_path, "broken", "./no-such-folder\n")
    told: list[str] = []
    assert main([], tmp_path, told.append) == 1
    assert "broken could not be installed" in told[0]
    assert "no-such-folder" in told[0]
    assert not clients(tmp_path)[0].ready


def test_node_clients_are_left_out_without_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Node is no failure, but it is told."""
    place = tmp_path / "tests" / "clients" / "node" / "some-client"
    place.mkdir(parents=True)
    (place / "package.json").write_text("{}")
    monkeypatch.setenv("PATH", str(tmp_path))
    told: list[str] = []
    assert main([], tmp_path, told.append) == 0
    assert "some-client is left out: it needs Node" in told[0]


def test_unknown_client_is_refused() -> None:
    """A name that nothing has is named, with those that there are."""
    told: list[str] = []
    assert main(["nobody"], say=told.append) == 2
    assert "no such client: nobody" in told[0]
    assert "openai" in told[0]
