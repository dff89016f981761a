"""The table of faults: what a backend does, and what must come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.integration.faults.scenes import (
    Act,
    after,
    body,
    broken_body,
    in_stream,
    refuse,
    silence,
    status,
    written,
    zipped,
)

__all__ = ["FAULTS", "LIMIT", "Fate", "Fault"]

LIMIT = 0.5
"""Seconds of the limit that a fault is to reach; all its other limits are far away."""


@dataclass(frozen=True)
class Fate:
    """What comes of a fault.

    Attributes:
        alone: What the client sees where there is nobody else: `answer`, `said` (what was said, as a whole answer),
            `cut` (what was said, then one error event), or a status and a code.
        paired: What it sees where a healthy candidate follows: `second` (that one's answer), `joined` (both, as one
            answer), or `same` (as alone).
        tries: How many requests the backend sees where it is alone.
        lasts: How long that takes.
    """

    alone: str
    paired: str = "second"
    tries: int = 2
    lasts: str = "at once"


@dataclass(frozen=True)
class Fault:
    """Something that a backend does.

    Attributes:
        says: What it is, for people.
        act: Doing it.
        whole: What comes of it where a whole answer was asked for; None: it cannot happen there.
        stream: What comes of it where a stream was.
        limits: The backend's short limits.
        unless: The fate in dialects where it is another, by dialect.
        place: Where the backend is, if not at the scripted upstream: `refused` or `mute`.
    """

    says: str
    act: Act
    whole: Fate | None
    stream: Fate | None
    limits: tuple[str, ...] = ()
    unless: Mapping[tuple[str, bool], Fate | None] = field(default_factory=dict)
    place: str = ""

    def fate(self, dialect: str, stream: bool) -> Fate | None:
        """Return what comes of it at a backend of some dialect."""
        return self.unless.get((dialect, stream), self.stream if stream else self.whole)


_ANSWER = Fate("answer", "same", 1)
_GONE = Fate("502 upstream_unavailable", lasts="at once, and once more after 50 ms")
_CUT = Fate("cut", "joined", 1)
_SAID = Fate("said", "same", 1)
_ONE_TRY = Fate("503 upstream_unavailable", tries=1)


def _late(limit: str) -> Fate:
    return Fate("504 upstream_timeout", tries=1, lasts=f"`{limit}` limit")


def _told(status_and_code: str) -> Fate:
    return Fate(status_and_code, "same", 1)


def _both(says: str, act: Act, fate: Fate) -> Fault:
    return Fault(says, act, fate, fate)


def _elsewhere(dialect: str) -> dict[tuple[str, bool], None]:
    """Return that something cannot happen in other dialects than one: it means something else there, or nothing."""
    others = {"openai", "local_agent", "anthropic", "gemini"} - {dialect}
    return {(other, stream): None for other in others for stream in (False, True)}


def _stream(says: str, act: Act, fate: Fate, *limits: str) -> Fault:
    return Fault(says, act, None, fate, limits)


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_HTML = b"<html><body><h1>It works!</h1></body></html>"
_UPGRADE = b"HTTP/1.1 101 X\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\nhi"
_REDIRECT = b"HTTP/1.1 302 Found\r\nlocation: http://ADDRESS/elsewhere\r\ncontent-length: 0\r\n\r\n"

_CONNECTION = {
    "refused": Fault("refuses the connection", refuse, _GONE, _GONE, place="refused"),
    "mute": Fault(
        "accepts, and never finishes the TLS handshake", refuse, _late("connect"), _late("connect"), ("connect",),
        place="mute",
    ),
    "closed": _both("closes without a byte", refuse, _GONE),
    "closed_in_head": _both("closes within the head", written(b"HTTP/1.1 200 OK\r\ncontent-ty"), _GONE),
    "closed_after_head": _both("closes after the head", written(_HEAD + b"content-length: 500\r\n\r\n"), _GONE),
    "garbage": _both("does not speak HTTP", written(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"\0\xff" * 50), _GONE),
    "huge_head": _both("sends a head of 100 KB", written(_HEAD + b"x-y: " + b"z" * 100_000), _GONE),
    "hints": _both(
        "says 103 first, then answers",
        after(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
        _ANSWER,
    ),
    "upgrade": _both(
        "switches to another protocol", written(_UPGRADE), _GONE
    ),
    "redirect": _both("redirects (302)", written(_REDIRECT, then_cut=False), _GONE),
}  # fmt: skip


_SILENCE = {
    "silence": Fault("takes the request and says nothing", silence, _late("total"), _late("first_token"), ("total",)),
    "silent_head": Fault("sends its head, then nothing", in_stream("silence"), _late("total"), _late("first_token")),
    "drip": Fault("sends a byte now and then, for ever", in_stream("drip"), _late("total"), None),
    "pings": _stream("sends comments for ever, and no output", in_stream("0", "pings"), _late("first_token")),
    "silent_opening": _stream("falls silent before its first word", in_stream("0", "silence"), _late("first_token")),
    "silent_middle": _stream(
        "falls silent after two words", in_stream("2", "silence"), Fate("cut", "joined", 1, "`idle` limit"), "idle"
    ),
}

_BODIES = {
    "html": _both("answers 200 with HTML", body(lambda _: _HTML, "text/html"), _GONE),
    "empty": _both("answers 200 with nothing", body(lambda _: b""), _GONE),
    "not_json": Fault("answers 200 with words", body(lambda _: b"I'm sorry, Dave."), _GONE, None),
    "json_for_stream": _stream(
        "answers a stream's request with JSON", body(lambda s: s.dialect.whole, "application/json"), _GONE
    ),
    "stream_for_json": Fault(
        "answers with a stream that nobody asked for", body(lambda s: b"".join(s.dialect.words), "text/event-stream"),
        _GONE, None,
    ),
    "other_type": Fault(
        "calls its answer `text/plain`", body(lambda s: b"".join(s.pieces), "text/plain"), _ANSWER, _GONE
    ),
    "half_json": Fault("answers with half of its JSON", body(lambda s: s.dialect.whole[:40]), _GONE, None),
    "hollow": Fault("answers with JSON that holds no answer", body(lambda s: s.dialect.hollow), _GONE, None),
    "not_utf8": Fault("answers with bytes that are no UTF-8", body(lambda _: b'{"x": "\xff\xfe"}'), _GONE, None),
    "deep": Fault("answers with JSON nested 100,000 deep", body(lambda _: b"[" * 100_000), _GONE, None),
    "short_body": _both(
        "closes before the promised length", broken_body(lambda s: s.pieces[0][:40], lambda size: size + 100), _GONE
    ),
    "no_last_chunk": Fault(
        "closes before the last chunk", broken_body(lambda s: s.pieces[0], None), _GONE, None
    ),
    "short_length": Fault(
        "promises less than it sends", broken_body(lambda s: s.dialect.whole, lambda size: size - 20), _GONE, None
    ),
    "zipped": _both("compresses its answer", body(zipped, extra="content-encoding: gzip\r\n"), _ANSWER),
    "zip_garbage": _both(
        "says gzip and sends something else", body(lambda _: b"x" * 64, extra="content-encoding: gzip\r\n"), _GONE
    ),
    "brotli": _both(
        "compresses in a way that was not asked for", body(zipped, extra="content-encoding: br\r\n"), _GONE
    ),
    "error_200": Fault(
        "answers 200 with an error object", body(lambda s: s.dialect.error(500, s.talk)), _GONE, None
    ),
}  # fmt: skip

_STREAMS = {
    "error_first": _stream("says 200, then an error event", in_stream("error", "end"), _GONE),
    "error_vllm": _stream("says 200, an error event, `[DONE]`", in_stream("error", "done", "end"), _GONE),
    "error_opening": _stream("fails after its first event without content", in_stream("0", "error"), _GONE),
    "error_quiet": _stream(
        "fails after three events without content", in_stream("0", "quiet", "quiet", "quiet", "error"), _GONE
    ),
    "broken_first": _stream("begins with an event that is no JSON", in_stream("broken", "end"), _GONE),
    "done_opening": Fault(
        "says `[DONE]` and nothing else", in_stream("done", "end"), None, _GONE, unless=_elsewhere("openai")
    ),
    "ends_opening": _stream("ends before its first word", in_stream("0", "end"), _GONE),
    "cut_opening": _stream("is cut off before its first word", in_stream("0", "cut"), _GONE),
    "cut_middle": _stream("is cut off after two words", in_stream("2", "cut"), _CUT),
    "error_middle": _stream("fails after two words", in_stream("2", "error", "end"), _CUT),
    "broken_middle": _stream("sends an event that is no JSON after two words", in_stream("2", "broken", "end"), _CUT),
    "framing_middle": _stream("breaks HTTP's framing after two words", in_stream("2", "framing"), _CUT),
    "huge_middle": _stream("sends an event of 20 MB after two words", in_stream("2", "huge"), _CUT),
    "ends_middle": _stream("ends properly after two words, without a finish", in_stream("2", "end"), _CUT),
    "done_middle": Fault(
        "says `[DONE]` after two words, without a finish", in_stream("2", "done", "end"), None, _SAID,
        unless=_elsewhere("openai"),
    ),
    "no_closing": _stream("forgets the event that closes its stream", in_stream("4", "finish", "end"), _ANSWER),
    "cut_finished": _stream("is cut off after its finish", in_stream("4", "finish", "cut"), _ANSWER),
    "late_framing": Fault(
        "never ends its framing", in_stream("4", "finish", "closing", "silence"), None, _ANSWER,
        unless={("gemini", True): None},
    ),
    "silent_finished": _stream(
        "falls silent after its finish", in_stream("4", "finish", "silence"),
        Fate("answer", "same", 1, "`idle` limit"), "idle",
    ),
    "long_event": _stream(
        "sends an event of 256 KB", in_stream("0", "long", "rest", "finish", "closing", "end"), _ANSWER
    ),
}  # fmt: skip

_ENVOY = "upstream connect error or disconnect/reset before headers. reset reason: connection failure"
_UNAUTHORIZED = Fate("502 upstream_unauthorized", tries=1)
_LIMITED = Fate("429 upstream_rate_limited", tries=1)
_PATIENT = Fate("429 upstream_rate_limited", tries=2, lasts="as long as `Retry-After` says, twice")
_FULL = Fate("503 upstream_unavailable", lasts="at once, and once more after 50 ms")
_BUSY = Fate("529 upstream_unavailable", lasts="at once, and once more after 50 ms")
_TOO_LONG = Fate("400 context_length_exceeded", tries=1)
_STATUSES = {
    "400": _both("answers 400", status(400), _told("400 None")),
    "400_long": _both("answers 400: the prompt is too long", status(400, long=True), _TOO_LONG),
    "401": _both("answers 401", status(401), _UNAUTHORIZED),
    "403": _both("answers 403", status(403), _UNAUTHORIZED),
    "404": _both("answers 404", status(404), _told("404 None")),
    "408": _both("answers 408", status(408), Fate("504 upstream_timeout", tries=1)),
    "413": _both("answers 413", status(413), _told("413 None")),
    "422": _both("answers 422", status(422), _told("422 None")),
    "429": _both("answers 429", status(429), _LIMITED),
    "429_short": _both("answers 429, `Retry-After: 1`", status(429, "retry-after: 1\r\n"), _PATIENT),
    "429_long": _both("answers 429, `Retry-After: 60`", status(429, "retry-after: 60\r\n"), _LIMITED),
    "500": _both("answers 500", status(500), _GONE),
    "502": _both("answers 502 with HTML", status(502, text=_HTML.decode()), _GONE),
    "503": _both("answers 503", status(503), _FULL),
    "503_envoy": _both("answers 503 as Envoy does, in words", status(503, text=_ENVOY), _FULL),
    "503_long": _both("answers 503, `Retry-After: 60`", status(503, "retry-after: 60\r\n"), _ONE_TRY),
    "504": _both("answers 504", status(504), Fate("504 upstream_timeout", tries=1)),
    "529": _both("answers 529 (overloaded)", status(529), _BUSY),
    "204": _both("answers 204", written(b"HTTP/1.1 204 No Content\r\n\r\n", then_cut=False), _GONE),
    "599": _both("answers 599", status(599, text="?"), _GONE),
}  # fmt: skip

FAULTS: Mapping[str, Fault] = {**_CONNECTION, **_SILENCE, **_BODIES, **_STREAMS, **_STATUSES}
