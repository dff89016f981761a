"""The general HTTP client: httpx, for proxies, HTTP/2 and recorded exchanges.

Proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY`, …); HTTP/2 needs the extra `http2`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from importlib.util import find_spec
from urllib.parse import urlsplit

import anyio
import httpx

from router.interfaces import Parts, Route
from shared.errors import UpstreamTimeout, UpstreamUnavailable

_HTTP2 = find_spec("h2") is not None

__all__ = ["HttpxExchange", "HttpxTransport"]


@contextmanager
def _translated() -> Iterator[None]:
    """Turn httpx's exceptions into ours; the message names the phase, never the address or a key."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise UpstreamTimeout("The backend did not accept a connection in time.") from error
    except httpx.PoolTimeout as error:
        raise UpstreamTimeout("No connection to the backend became free in time.") from error
    except httpx.TimeoutException as error:
        raise UpstreamTimeout("The backend did not answer in time.") from error
    except httpx.ConnectError as error:
        raise UpstreamUnavailable("The backend cannot be reached.") from error
    except httpx.DecodingError as error:
        raise UpstreamUnavailable("The backend's answer is compressed in a way that cannot be read.") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise UpstreamUnavailable("The backend closed the connection before its answer was complete.") from error


def _limited(until: float) -> AbstractContextManager[anyio.CancelScope]:
    """Bound what is awaited inside; a limit that has passed ends it with `TimeoutError`."""
    return anyio.fail_after(max(0.0, until - time.perf_counter()))


class HttpxExchange:
    """One answer: its head, and its body as it comes. `close()` must be called."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._parts = response.aiter_bytes()

    async def read(self, until: float) -> bytes | None:
        """Return what has come of the body; see `Exchange.read`."""
        with _translated(), _limited(until):
            return await anext(self._parts, None)

    async def pump(self, take: Callable[[bytes], bool], idle: float, ends: float) -> bool:
        """Hand on the body as it comes; see `Exchange.pump`."""
        while (data := await self.read(min(time.perf_counter() + idle, ends))) is not None:
            if not take(data):
                return False
        return True

    async def close(self, *, complete: bool = False) -> None:  # noqa: ARG002 - httpx judges by itself
        """Give the connection back, or close it; see `Exchange.close`."""
        await self._response.aclose()


class HttpxTransport:
    """Sends requests with httpx, over one client for each origin.

    Args:
        max_connections: Bound on the connections to an origin.
        idle_seconds: How long an unused connection is kept.
        tls: Verifies certificates; None for the bundle that httpx brings.
    """

    def __init__(
        self, max_connections: int = 10_000, idle_seconds: float = 30.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._limits = httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=idle_seconds
        )
        self._tls = tls or httpx.create_ssl_context()
        self._clients: dict[tuple[str, str], httpx.AsyncClient] = {}

    async def send(
        self, route: Route, headers: Mapping[str, str], body: Parts, connect: float, until: float
    ) -> HttpxExchange:
        """Send a POST and return the answer once its head is there; see `Transport.send`."""
        timeout = httpx.Timeout(None, connect=connect, pool=connect)
        parts = urlsplit(route.url)
        client = self._clients.get((parts.scheme, parts.netloc))
        if client is None:
            client = self._clients[parts.scheme, parts.netloc] = httpx.AsyncClient(
                limits=self._limits, verify=self._tls, http2=_HTTP2, follow_redirects=False
            )
        with _translated(), _limited(until):
            request = client.build_request(
                "POST", route.url, content=b"".join(body), headers={**route.headers, **headers}, timeout=timeout
            )
            return HttpxExchange(await client.send(request, stream=True))

    async def close(self) -> None:
        """Close every connection."""
        async with AsyncExitStack() as stack:
            for client in self._clients.values():
                stack.push_async_callback(client.aclose)
        self._clients.clear()
