"""Asking servers what they serve through httpx: where proxies are in between, or exchanges are recorded."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from router.registry.asking import Refused

__all__ = ["HttpxAsker"]


class HttpxAsker:
    """Sends GET requests; what `Asker` is where `ROUTER_TRANSPORT` is httpx.

    Args:
        seconds: How long connecting, and each wait for bytes, may take.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds

    async def get(self, url: str, headers: Mapping[str, str]) -> bytes:
        """Return the body of a successful answer; raises what `Asker.get` does."""
        try:
            async with httpx.AsyncClient(timeout=self._seconds, follow_redirects=False) as client:
                answer = await client.get(url, headers=dict(headers))
        except httpx.TimeoutException as error:
            raise TimeoutError from error
        except httpx.InvalidURL as error:
            raise ValueError(str(error)) from error
        except httpx.HTTPError as error:
            raise ConnectionError(str(error)) from error
        if not answer.is_success:
            raise Refused(httpx.URL(url).host, answer.status_code, answer.headers, answer.content)
        return answer.content
