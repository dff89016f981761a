"""Whether an address is free, and what to tell the user when it is not."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass

import httpx

__all__ = ["PortTaken", "Service", "require_free"]


@dataclass(frozen=True, slots=True)
class Service:
    """A service that wants an address.

    `setting` is the variable that moves it elsewhere, `marks` the keys by which its `/readyz` is told.
    """

    title: str
    host: str
    port: int
    url: str
    setting: str
    marks: frozenset[str]


class PortTaken(Exception):
    """Something else listens where a service should."""


def _is_free(host: str, port: int) -> bool:
    """Return whether one can listen there and nobody answers.

    Both are asked, because macOS lets a narrow address be bound beside somebody's wildcard.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - replaced here, not bound
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((target, port)) != 0


async def require_free(service: Service, platform: str = sys.platform) -> None:
    """Return when the service's address is free.

    Raises:
        PortTaken: It is not; the message says who has it, as far as can be seen, and what to do.
    """
    if _is_free(service.host, service.port):
        return
    occupant = await _identify(service)
    address = f"{service.host}:{service.port}"
    way_out = f"or choose another port: {service.setting}={service.port + 1} make dev"
    if occupant == "ours":
        raise PortTaken(
            f"A {service.title} already runs at {address}. `make dev` starts its own and reuses none: "
            f"stop that one (Ctrl-C where it was started) {way_out}"
        )
    if occupant == "airplay" or (platform == "darwin" and service.port in (5000, 7000)):
        raise PortTaken(
            f"Port {service.port} is taken, on macOS most likely by the AirPlay receiver. Turn it off (System "
            f"Settings, General, AirDrop & Handoff, AirPlay Receiver) {way_out}"
        )
    raise PortTaken(f"Port {service.port} at {service.host} is taken by another program. Stop it, {way_out}")


async def _identify(service: Service) -> str | None:
    """Return `ours`, `airplay`, or None for a stranger."""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=2.0) as client:
            reply = await client.get(f"{service.url}/readyz")
            if "airtunes" in reply.headers.get("server", "").lower():
                return "airplay"
            fields = reply.json()
    except (httpx.HTTPError, ValueError):
        return None
    return "ours" if isinstance(fields, dict) and service.marks <= fields.keys() else None
