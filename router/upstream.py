"""The HTTP client towards backends: pools, headers, and the one translation of foreign exceptions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import httpx

from router.interfaces import Secrets
from router.types import Backend
from router.wire.failures import failure
from shared.errors import ServiceError, UpstreamTimeout, UpstreamUnauthorized, UpstreamUnavailable
from shared.sse import EventTooLarge, SSEEvent, SSEReader

__all__ = ["Reply", "Upstream"]

SAFE_HEADERS = ("traceparent", "tracestate")
"""Client headers that every backend may see."""
_NEVER = frozenset(
    {"authorization", "x-api-key", "cookie", "host", "content-length", "transfer-encoding", "connection"}
)
_ERROR_LIMIT = 64 * 1024


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


class Reply:
    """A backend's successful answer whose body is still to be read.

    Args:
        response: The open response.
        limit: The largest whole body accepted, in bytes.
    """

    def __init__(self, response: httpx.Response, limit: int) -> None:
        self._response = response
        self._limit = limit

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters."""
        header: str = self._response.headers.get("content-type", "")
        return header.partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            UpstreamUnavailable: It is cut off, or larger than the limit.
        """
        parts: list[bytes] = []
        size = 0
        with _translated():
            async for part in self._response.aiter_bytes():
                size += len(part)
                if size > self._limit:
                    raise UpstreamUnavailable(f"The backend's answer exceeds {self._limit} bytes.")
                parts.append(part)
        return b"".join(parts)

    async def events(self) -> AsyncIterator[SSEEvent]:
        """Yield the events of a stream as they come.

        Raises:
            UpstreamUnavailable: The answer is no event stream, is cut off in the middle of an
                event, or holds one that is too large.
        """
        if self.content_type != "text/event-stream":
            raise UpstreamUnavailable("The backend answered a streaming request with something else.")
        reader = SSEReader()
        try:
            with _translated():
                async for part in self._response.aiter_bytes():
                    for event in reader.feed(part):
                        yield event
        except EventTooLarge as error:
            raise UpstreamUnavailable("The backend's stream holds an event that is too large.") from error
        if (rest := reader.close()).strip():
            for event in SSEReader().feed(rest + b"\n\n"):
                yield event


class Upstream:
    """Sends requests to backends, over one pool of connections for each.

    Args:
        secrets: Where the keys that backends name are found.
        max_connections: Bound of each pool.
        answer_limit: The largest whole answer accepted, in bytes.
    """

    def __init__(self, secrets: Secrets, max_connections: int = 1000, answer_limit: int = 256 * 1024 * 1024) -> None:
        self._secrets = secrets
        self._limits = httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=30.0
        )
        self._answer_limit = answer_limit
        self._ssl = httpx.create_ssl_context()
        self._clients: dict[tuple[str, str], httpx.AsyncClient] = {}

    async def close(self) -> None:
        """Close every pool."""
        async with AsyncExitStack() as stack:
            for client in self._clients.values():
                stack.push_async_callback(client.aclose)
        self._clients.clear()

    def _client(self, backend: Backend) -> httpx.AsyncClient:
        key = (backend.name, backend.base_url)
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = httpx.AsyncClient(
                limits=self._limits, verify=self._ssl, trust_env=False, follow_redirects=False
            )
        return client

    def _headers(self, backend: Backend, client_headers: Mapping[str, str], request_id: str) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "user-agent": "inference-router",
            "x-request-id": request_id,
        }
        for name in (*SAFE_HEADERS, *(name.lower() for name in backend.forward_headers)):
            if name in client_headers and name not in _NEVER:
                headers[name] = client_headers[name]
        if backend.api_key_env is not None:
            secret = self._secrets(backend.api_key_env)
            if not secret:
                raise UpstreamUnauthorized(
                    f"The variable {backend.api_key_env} that holds the backend's key is not set."
                )
            headers["authorization"] = f"Bearer {secret}"
        return headers

    @asynccontextmanager
    async def post(
        self, backend: Backend, path: str, body: bytes, client_headers: Mapping[str, str], request_id: str
    ) -> AsyncIterator[Reply]:
        """Send a JSON body and yield the reply once its head says success.

        Leaving the context closes the exchange at once, read to its end or not. Only connecting
        is timed here; the limits on the answer are the dispatcher's.

        Raises:
            ServiceError: The backend cannot be reached or answered with a 4xx or 5xx.
        """
        timeout = httpx.Timeout(None, connect=backend.timeouts.connect, pool=backend.timeouts.connect)
        url = backend.base_url.rstrip("/") + path
        headers = self._headers(backend, client_headers, request_id)
        client = self._client(backend)
        with _translated():
            request = client.build_request("POST", url, content=body, headers=headers, timeout=timeout)
            response = await client.send(request, stream=True)
        try:
            if response.status_code != 200:
                raise await self._failure(backend, response)
            yield Reply(response, self._answer_limit)
        finally:
            await response.aclose()

    async def _failure(self, backend: Backend, response: httpx.Response) -> ServiceError:
        if response.status_code < 400:
            return UpstreamUnavailable(f"The backend answered with an unexpected status {response.status_code}.")
        body = b""
        with _translated():
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _ERROR_LIMIT:
                    break
        quoted = backend.dialect == "local_agent"
        return failure(response.status_code, body, response.headers, quoted=quoted)
