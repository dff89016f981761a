"""What a backend does to one request, step by step: the pieces that the table of faults is made of."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.integration.faults.dialects import BackendDialect
from tests.support.upstream import ScriptedReply, SeenRequest

__all__ = [
    "Act",
    "Scene",
    "after",
    "answer",
    "body",
    "broken_body",
    "in_stream",
    "refuse",
    "silence",
    "status",
    "written",
    "zipped",
]

_JSON = "application/json"
_SSE = "text/event-stream"


@dataclass
class Scene:
    """One request at a backend, and where its answer goes.

    Attributes:
        request: What came.
        reply: Where the answer is written.
        dialect: The backend's.
        stream: Whether a stream was asked for.
        secret: The key that the router showed.
        address: The backend's address, which no client may learn.
    """

    request: SeenRequest
    reply: ScriptedReply
    dialect: BackendDialect
    stream: bool
    secret: str
    address: str

    @property
    def talk(self) -> str:
        """What a careless backend says of itself."""
        return f"fault at http://{self.address}/secret-path for key {self.secret}"

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The whole fixed answer as it is written: the events of a stream, or one body."""
        told = self.dialect
        if not self.stream:
            return (told.whole,)
        return tuple(piece for piece in (*told.opening, *told.words, *told.finish, told.closing) if piece)

    async def head(self, content_type: str | None = None, extra: str = "", status: str = "200 OK") -> None:
        """Begin a chunked answer."""
        kind = content_type or (_SSE if self.stream else _JSON)
        lines = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n{extra}\r\n"
        await self.reply.raw(lines.encode())

    async def say(self, *pieces: bytes) -> None:
        """Write pieces of the answer, each in a chunk of its own."""
        for piece in pieces:
            await self.reply.send(piece)

    async def begin(self, words: int) -> None:
        """Begin a stream and say the first words."""
        await self.head()
        await self.say(*self.dialect.opening, *self.dialect.words[:words])

    async def forever(self) -> None:
        """Say nothing more until the router has left."""
        await self.request.closed_early.wait()


Act = Callable[[Scene], Awaitable[None]]


async def answer(scene: Scene) -> None:
    """Answer as a backend should."""
    await scene.head()
    await scene.say(*scene.pieces)
    await scene.reply.end_stream()


def after(first: bytes) -> Act:
    """Write bytes, then answer as a backend should."""

    async def act(scene: Scene) -> None:
        await scene.reply.raw(first)
        await answer(scene)

    return act


async def silence(scene: Scene) -> None:
    """Take the request and say nothing."""
    await scene.forever()


def status(code: int, headers: str = "", text: str | None = None, *, long: bool = False) -> Act:
    """Answer with a status and the dialect's own error, or a text that is none."""

    async def act(scene: Scene) -> None:
        words = scene.dialect.too_long if long else scene.talk
        told = scene.dialect.error(code, words) if text is None else text.encode()
        kind = _JSON if text is None else "text/plain"
        head = f"HTTP/1.1 {code} X\r\ncontent-type: {kind}\r\ncontent-length: {len(told)}\r\n{headers}\r\n"
        await scene.reply.raw(head.encode() + told)

    return act


async def refuse(scene: Scene) -> None:
    """Close the connection without a byte."""
    scene.reply.cut()


def written(*parts: bytes, then_cut: bool = True) -> Act:
    """Write bytes that are no answer, and close."""

    async def act(scene: Scene) -> None:
        for part in parts:
            await scene.reply.raw(part.replace(b"ADDRESS", scene.address.encode()))
        if then_cut:
            await asyncio.sleep(0)
            scene.reply.cut()

    return act


def body(data: Callable[[Scene], bytes], kind: str | None = None, extra: str = "") -> Act:
    """Answer 200 with a body of one's own making."""

    async def act(scene: Scene) -> None:
        told = data(scene)
        await scene.head(kind, extra)
        if told:
            await scene.say(told)
        await scene.reply.end_stream()

    return act


def broken_body(data: Callable[[Scene], bytes], length: Callable[[int], int] | None) -> Act:
    """Answer with a body that its framing contradicts.

    Args:
        data: The body.
        length: The content-length told for a body of some length; None: chunked, without the last chunk.
    """

    async def act(scene: Scene) -> None:
        told = data(scene)
        kind = _SSE if scene.stream else _JSON
        if length is None:
            await scene.head()
            await scene.say(told)
        else:
            head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length(len(told))}\r\n\r\n"
            await scene.reply.raw(head.encode() + told)
        scene.reply.cut()

    return act


def in_stream(*steps: str) -> Act:
    """Answer with a stream of steps: a number of words, or what goes wrong.

    Steps: `N` the first N words; `quiet` an event without content; `error` an error event; `broken` an event that is
    no JSON; `huge` an event without an end; `long` a long first word, `rest` the others; `finish`, `closing` the
    answer's proper end; `done` OpenAI's; `cut` the connection lost; `framing` a chunk that is none; `end` the end of
    the body; `silence`; `pings` comments for ever; `drip` a byte now and then.
    """

    async def act(scene: Scene) -> None:
        await scene.head()
        said = dict(await _vocabulary(scene))
        for step in steps:
            if step.isdigit():
                await scene.say(*scene.dialect.opening, *scene.dialect.words[: int(step)])
            elif step == "silence":
                await scene.forever()
            else:
                await said[step]()

    return act


async def _vocabulary(scene: Scene) -> dict[str, Callable[[], Awaitable[None]]]:
    told, reply = scene.dialect, scene.reply

    async def cut() -> None:
        # What was written before is to arrive before the reset.
        await asyncio.sleep(0.02)
        reply.cut()

    async def huge() -> None:
        await scene.say(b"data: ")
        for _ in range(20):
            await scene.say(b"x" * 1024 * 1024)

    async def pings() -> None:
        while True:
            await scene.say(b": still here\n\n")
            await asyncio.sleep(0.02)

    async def drip() -> None:
        for byte in scene.dialect.whole:
            await scene.say(bytes([byte]))
            await asyncio.sleep(0.05)

    return {
        "quiet": lambda: scene.say(told.quiet),
        "error": lambda: scene.say(told.error_event(scene.talk)),
        "broken": lambda: scene.say(b'data: {"choices": [{"del\n\n'),
        "finish": lambda: scene.say(*told.finish),
        "closing": lambda: scene.say(*filter(None, (told.closing,))),
        "done": lambda: scene.say(b"data: [DONE]\n\n"),
        "framing": lambda: reply.raw(b"zz\r\nno chunk\r\n"),
        "long": lambda: scene.say(told.words[0].replace(b"one", b"one" + b" " * (256 * 1024))),
        "rest": lambda: scene.say(*told.words[1:]),
        "end": reply.end_stream,
        "cut": cut,
        "huge": huge,
        "pings": pings,
        "drip": drip,
    }


def zipped(scene: Scene) -> bytes:
    """Return the proper answer, compressed."""
    return gzip.compress(b"".join(scene.pieces))
