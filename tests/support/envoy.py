"""Envoy's own binary under what the chart renders for it, on ports of the loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.process import Service, free_port, wait_until_ready

__all__ = ["BINARY", "Envoy", "envoy", "unpacked"]

BINARY = Path(sys.executable).parent / "envoy"

# As in the container, but with one thread, and a log that is written at once.
_ARGUMENTS = ("--log-level", "warn", "--concurrency", "1", "--disable-hot-restart", "--file-flush-interval-msec", "20")


@dataclass
class Envoy(Service):
    """A running Envoy; `url` is its entrance.

    Attributes:
        status: Where readiness and metrics are.
        admin_port: Of its admin interface.
        config: The folder with its configuration.
    """

    status: str
    admin_port: int
    config: Path


def unpacked(data: Mapping[str, str], folder: Path, keys: str = "") -> Path:
    """Write a ConfigMap's entries, and the keys of a Secret, where the container would find them, below a folder.

    Returns:
        The path of Envoy's configuration.
    """
    for below in ("config", "keys"):
        (folder / below).mkdir()
    for name, text in data.items():
        moved = text.replace("/etc/envoy-keys/", f"{folder}/keys/").replace("/etc/envoy/", f"{folder}/config/")
        (folder / "config" / name).write_text(moved, encoding="utf-8")
    (folder / "keys" / "keys").write_text(keys, encoding="utf-8")
    return folder / "config" / "envoy.yaml"


@contextmanager
def envoy(data: Mapping[str, str], folder: Path, picker: int, workers: int, keys: str = "") -> Iterator[Envoy]:
    """Run Envoy until the context ends.

    Args:
        data: The entries of the ConfigMap.
        folder: Where to write them.
        picker: Port of the endpoint picker.
        workers: Port of what stands in for the Service of all workers.
        keys: What the mounted Secret holds.
    """
    entrance, status, admin = free_port(), free_port(), free_port()
    path = unpacked(data, folder, keys)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    _move(config, {8081: entrance, 19001: status, 19000: admin, 9002: picker, 8000: workers})
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [BINARY, "--config-path", path, *_ARGUMENTS],
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    running = Envoy(
        process, f"http://127.0.0.1:{entrance}", log, f"http://127.0.0.1:{status}", admin, folder / "config"
    )
    try:
        wait_until_ready(Service(process, running.status, log), "/ready", 30)
        yield running
    finally:
        process.terminate()
        process.wait(20)


def _move(config: Any, ports: Mapping[int, int]) -> None:
    """Put every address of a configuration on the loopback, and its port where the test has it."""
    if isinstance(config, list):
        for item in config:
            _move(item, ports)
    elif isinstance(config, dict):
        if "port_value" in config:
            config.update(address="127.0.0.1", port_value=ports[config["port_value"]])
        for item in config.values():
            _move(item, ports)
