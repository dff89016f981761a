"""A GET against servers that frame, compress and break off in every way."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme

from router.registry.asking import Asker, Refused
from tests.support.process import free_port


@asynccontextmanager
async def server(answer: bytes, tls: ssl.SSLContext | None = None, *, hang: bool = False) -> AsyncIterator[str]:
    """Answer every connection with the same bytes, then close it, or `hang`; yield the address."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if hang:
            await gone.wait()
        writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    try:
        yield f"{scheme}://localhost:{running.sockets[0].getsockname()[1]}/v1/models?x=1"
    finally:
        gone.set()
        running.close()
        await running.wait_closed()


def head(*headers: str, status: str = "200 OK") -> bytes:
    """Return an answer's head."""
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, "")).encode()


@pytest.mark.parametrize(
    "answer",
    [
        head("Content-Length: 2") + b"{}",
        head("Transfer-Encoding: chunked") + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        head() + b"{}",
        head(status="103 Early Hints") + head("Content-Length: 2") + b"{}",
        head("Content-Encoding: gzip") + gzip.compress(b"{}", mtime=0),
    ],
    ids=["length", "chunked", "until-close", "after-interim", "compressed-unasked"],
)
async def test_get_reads_every_framing(answer: bytes) -> None:
    """Each way in which HTTP/1.1 may frame a body gives that body."""
    async with server(answer) as url:
        assert await Asker().get(url, {"authorization": "Bearer k"}) == b"{}"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectionError),
        (head("Content-Length: 9") + b"{}", ConnectionError),
        (head("Transfer-Encoding: chunked") + b"1\r\n{\r\n", ConnectionError),
        (b"SSH-2.0-x\r\n\r\n", ValueError),
        (head("Content-Length: 99") + b"x" * 99, ValueError),
        (head("Content-Encoding: gzip") + gzip.compress(b"x" * 99, mtime=0), ValueError),
        (head("Content-Encoding: gzip") + gzip.compress(b"{}", mtime=0)[:-4], ValueError),
        (head("Content-Encoding: gzip") + b"{}", ValueError),
        (head("Content-Encoding: br") + b"{}", ValueError),
    ],
)
async def test_get_refuses_what_cannot_be_read(answer: bytes, error: type[Exception]) -> None:
    """An answer that is cut off, too large, or no HTTP at all is an error and never half a body."""
    async with server(answer) as url:
        with pytest.raises(error):
            await Asker(limit=64).get(url, {})


@pytest.mark.parametrize("status", ["301 Moved", "401 Unauthorized", "500 No"])
async def test_get_tells_a_refusal_by_its_status(status: str) -> None:
    """What is not success is told with the host and the status; the body is not waited for."""
    async with server(head("Location: http://elsewhere/", status=status), hang=True) as url:
        with pytest.raises(Refused, match=f"localhost answered {status[:3]}") as caught:
            await Asker().get(url, {})
    assert caught.value.status == int(status[:3])


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (head("Content-Length: 4", "X-Why: Because", status="503 No")[17:] + b"full", b"full"),
        (head("X-Why: Because", status="503 No")[17:] + b"full", b"full"),
        (head("Content-Length: 9", "X-Why: Because", status="503 No")[17:] + b"cut", b"cut"),
        (head("Content-Length: 9999", "X-Why: Because", status="503 No")[17:] + b"x" * 9999, b"x" * 2048),
    ],
    ids=["whole", "until-close", "cut-off", "long"],
)
async def test_get_tells_why_it_was_refused(rest: bytes, words: bytes) -> None:
    """The headers of a refusal and how its body begins come along, whatever becomes of the rest."""
    async with server(b"HTTP/1.1 503 No\r\n" + rest) as url:
        with pytest.raises(Refused) as caught:
            await Asker(limit=64).get(url, {})
    assert (caught.value.headers["x-why"], caught.value.body) == ("because", words)


async def test_get_gives_up_on_silence() -> None:
    """A server that accepts and says nothing is left after the limit."""
    async with server(b"", hang=True) as url:
        with pytest.raises(asyncio.TimeoutError):
            await Asker(seconds=0.05).get(url, {})


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("ftp://host/", {}),
        ("http:///path", {}),
        ("http://host/a b", {}),
        ("http://host/", {"authorization": "Bearer a\r\nx: y"}),
        ("http://host/", {"authorization": "Bearer \u20ac"}),
    ],
)
async def test_get_sends_nothing_that_is_no_request(url: str, headers: dict[str, str]) -> None:
    """An address or a header that would break the request is refused before anything is opened."""
    with pytest.raises(ValueError):  # noqa: PT011 - the reason is for people
        await Asker().get(url, headers)


async def test_get_from_nobody() -> None:
    """A port that nobody listens on is an OSError."""
    with pytest.raises(OSError, match="onnect"):
        await Asker().get(f"http://127.0.0.1:{free_port()}/", {})


async def test_get_verifies_certificates() -> None:
    """A certificate is trusted where its authority is, and nowhere else."""
    authority, theirs = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    async with server(head("Content-Length: 2") + b"{}", theirs) as url:
        assert await Asker(tls=ours).get(url, {}) == b"{}"
        with pytest.raises(ssl.SSLError):
            await Asker().get(url, {})
