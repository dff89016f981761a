"""The one process that owns the device: `python -m local_agent.worker FD`.

Two threads. One reads messages from the web process and turns text into tokens; when the other
end closes, it ends the whole process, so that no orphan keeps the device. The main thread runs the
loop: one step of one sequence at a time, with a sign of life for each.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import queue
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from local_agent import frames
from local_agent.detokenizer import Detokenizer
from local_agent.scheduler import Decode, Prefill, Scheduler, Sequence
from local_agent.types import (
    Beat,
    Cancel,
    Configure,
    Failed,
    Finished,
    FinishReason,
    FromWorker,
    Generate,
    Generation,
    LoadFailed,
    Phase,
    Piece,
    Ready,
)
from shared.errors import ContextLengthExceeded, InvalidRequest, ServiceError
from shared.logs import logging_to_stderr

if TYPE_CHECKING:  # torch takes seconds to import; the process must hear its parent die meanwhile
    from local_agent.engine.load import Engine
    from local_agent.engine.sampler import Sampler

__all__ = ["Worker", "main"]

_IDLE_BEAT_S = 1.0
_REST_AFTER_S = 30.0
_PROGRESS_EVERY_S = 0.25
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Prepared:
    """A generation whose prompt has become tokens."""

    id: int
    tokens: list[int]
    prompt_tokens: int
    max_tokens: int
    generation: Generation
    strip_leading_space: bool
    owed: bytes
    """The last word of a prefill, which the model writes anew and nobody is shown."""


@dataclass(slots=True)
class _Running:
    """A generation in the main thread's hands."""

    prepared: _Prepared
    sampler: Sampler
    detokenizer: Detokenizer
    last_token: int = 0
    generated: int = 0


_Inbox: TypeAlias = "queue.SimpleQueue[_Prepared | Cancel]"


class Link:
    """The worker's end of the socket; any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._codec = frames.from_worker()
        self._incoming = frames.to_worker()
        self._lock = threading.Lock()

    def send(self, message: FromWorker) -> None:
        """Send one message; a parent that is gone ends the process."""
        frame = self._codec.encode(message)
        try:
            with self._lock:
                self._connection.sendall(frame)
        except OSError:
            os._exit(0)

    def receive(self) -> Configure | Generate | Cancel:
        """Wait for the next message; a parent that is gone ends the process at once.

        `os._exit`, because the main thread may be deep inside a device call.
        """
        try:
            return self._incoming.decode(frames.receive_frame(self._connection))
        except (EOFError, OSError):
            os._exit(0)


class Worker:
    """Loads an engine and runs the loop over it.

    Args:
        link: To the web process.
        configure: What to load, and limits.
    """

    def __init__(self, link: Link, configure: Configure) -> None:
        self._link = link
        self._configure = configure
        self._inbox: _Inbox = queue.SimpleQueue()
        self._sequences: dict[int, _Running] = {}
        self._steps = 0
        self._phase = Phase.STARTING
        self._armed = 0.0
        self._engine: Engine
        self._scheduler: Scheduler

    def load(self) -> None:
        """Load the model and tell the web process; it sends no generation before that."""
        from local_agent.engine.load import load_engine  # noqa: PLC0415 - seconds of torch; see TYPE_CHECKING above

        self._engine = load_engine(self._configure, _Reporter(self._link))
        self._scheduler = Scheduler(self._configure.max_running, self._engine.token_budget, self._engine.chunk_size)
        gc.collect()
        gc.freeze()  # what is loaded now lives for ever: collections need not walk it
        self._link.send(Ready(self._engine.model))

    def listen(self) -> None:
        """Read messages for ever; runs on its own thread."""
        while True:
            message = self._link.receive()
            if isinstance(message, Generate):
                try:
                    self._inbox.put(self._prepare(message))
                except ServiceError as error:
                    self._link.send(Failed(message.id, error.code or "internal_error", error.message, error.param))
                except Exception:  # noqa: BLE001 - one prompt must not end the thread
                    _log.exception("a prompt could not be prepared")
                    self._link.send(Failed(message.id, "internal_error", "The prompt could not be prepared."))
            elif isinstance(message, Cancel):
                self._inbox.put(message)

    def run(self) -> None:
        """Serve for ever; runs on the main thread."""
        idle_since = time.monotonic()
        rested = False
        while True:
            if not self._sequences:
                self._beat(Phase.IDLE)
                self._disarm()
            self._take_messages(block=not self._sequences)
            step = self._scheduler.next()
            if step is not None:
                self._arm()
                self._perform(step)
                idle_since, rested = time.monotonic(), False
            elif not rested and time.monotonic() - idle_since > _REST_AFTER_S:
                self._engine.runner.rest()
                rested = True

    def _prepare(self, message: Generate) -> _Prepared:
        """Turn a prompt into tokens and check that it fits."""
        generation = message.generation
        tokenizer = self._engine.tokenizer
        chat = generation.messages is not None
        if generation.messages is not None:
            if tokenizer.template is None:
                raise InvalidRequest("This model has no chat template; send `prompt`.", param="messages")
            tokens = tokenizer.encode(tokenizer.template.render(generation.messages), add_special=False)
        else:
            tokens = tokenizer.encode(generation.prompt or "", add_special=True)
        prompt_tokens, owed = len(tokens), b""
        if generation.prefill:
            prompt_tokens += len(tokenizer.encode_answer(generation.prefill))
            begun, owed = tokenizer.split_answer(generation.prefill)
            tokens += begun
        context = self._engine.model.context_length
        if not tokens or prompt_tokens >= context:
            raise ContextLengthExceeded(
                f"This model's context is {context} tokens; the prompt has {prompt_tokens} tokens "
                "and the answer needs at least 1.",
                param=generation.origin,
            )
        room = context - prompt_tokens
        wanted = room if generation.max_tokens is None else min(generation.max_tokens, room)
        strip = tokenizer.strip_leading_space and chat and not generation.prefill
        return _Prepared(message.id, tokens, prompt_tokens, wanted, generation, strip, owed)

    def _take_messages(self, *, block: bool) -> None:
        """Act on everything that has arrived; wait a moment for something if there is nothing to do."""
        while True:
            try:
                message = self._inbox.get(block=block, timeout=_IDLE_BEAT_S)
            except queue.Empty:
                return
            block = False
            if isinstance(message, Cancel):
                if message.id in self._sequences:
                    self._finish(message.id, "cancelled")
            else:
                self._start(message)

    def _start(self, prepared: _Prepared) -> None:
        generation = prepared.generation
        self._sequences[prepared.id] = _Running(
            prepared,
            self._engine.new_sampler(generation.sampling),
            Detokenizer(generation.stop, strip_leading_space=prepared.strip_leading_space, owed=prepared.owed),
        )
        # At worst every owed byte takes a token of its own.
        longest = prepared.max_tokens + len(prepared.owed)
        self._scheduler.add(Sequence(prepared.id, len(prepared.tokens), longest))

    def _perform(self, step: Prefill | Decode) -> None:
        """Run one step; an error ends the one sequence it happened in."""
        self._steps += 1
        running = self._sequences[step.id]
        try:
            if isinstance(step, Prefill):
                self._beat(Phase.PREFILL, step.start, len(running.prepared.tokens))
                tokens = running.prepared.tokens[step.start : step.end]
                logits = self._engine.runner.prefill(step.id, tokens, last=step.last)
            else:
                if self._phase is not Phase.DECODE:  # otherwise the last token was the sign of life
                    self._beat(Phase.DECODE)
                logits = self._engine.runner.decode(step.id, running.last_token)
            if logits is not None:
                owed = running.detokenizer.owed
                allowed = self._engine.tokenizer.continuations(owed) if owed else None
                self._emit(step.id, running, running.sampler.sample(logits, allowed))
        except Exception:  # noqa: BLE001 - one sequence must not end the others
            _log.exception("a step failed", extra={"fields": {"step": type(step).__name__}})
            if step.id in self._sequences:
                self._forget(step.id)
            self._link.send(Failed(step.id, "internal_error", "The engine could not compute this answer."))

    def _emit(self, sequence: int, running: _Running, token: int) -> None:
        """Send what a new token shows, and end the sequence where it ends."""
        if token in self._engine.tokenizer.eos_ids:
            self._finish(sequence, "stop")
            return
        running.last_token = token
        piece = self._engine.tokenizer.token_bytes(token)
        # A token that only repeats what the caller has is part of the prompt, not of the answer.
        running.generated += len(piece) > len(running.detokenizer.owed) or not running.detokenizer.owed
        text = running.detokenizer.push(piece)
        self._link.send(Piece(sequence, text, running.generated))
        if running.detokenizer.stopped:
            self._finish(sequence, "stop")
        elif running.generated >= running.prepared.max_tokens:
            self._finish(sequence, "length")

    def _finish(self, sequence: int, reason: FinishReason) -> None:
        running = self._sequences[sequence]
        if reason != "cancelled" and (rest := running.detokenizer.flush()):
            self._link.send(Piece(sequence, rest, running.generated))
        self._forget(sequence)
        self._link.send(Finished(sequence, reason, running.prepared.prompt_tokens, running.generated))

    def _forget(self, sequence: int) -> None:
        del self._sequences[sequence]
        self._scheduler.remove(sequence)
        self._engine.runner.free(sequence)

    def _beat(self, phase: Phase, done: int = 0, total: int = 0) -> None:
        self._phase = phase
        self._link.send(Beat(phase, self._steps, done, total))

    def _arm(self) -> None:
        """Have a C thread end the process should a step hang while it holds the interpreter's lock.

        The supervisor kills a stalled worker much earlier; this is for the case that it is gone.
        """
        now = time.monotonic()
        limit = self._configure.hang_limit_s
        if now - self._armed > limit / 8:  # arming starts a thread: seldom is enough
            self._armed = now
            faulthandler.dump_traceback_later(limit, exit=True)

    def _disarm(self) -> None:
        if self._armed:
            self._armed = 0.0
            faulthandler.cancel_dump_traceback_later()


class _Reporter:
    """Sends progress of loading, not more often than anybody can read."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._phase: Phase | None = None
        self._sent = 0.0
        self._step = 0

    def __call__(self, phase: Phase, done: int, total: int, detail: str) -> None:
        now = time.monotonic()
        if phase is self._phase and done < total and now - self._sent < _PROGRESS_EVERY_S:
            return
        self._step += 1
        self._phase, self._sent = phase, now
        self._link.send(Beat(phase, self._step, done, total, detail))


def main(argv: list[str]) -> None:
    """Serve the web process at the other end of the inherited socket."""
    connection = socket.socket(fileno=int(argv[1]))
    connection.setblocking(True)
    link = Link(connection)
    configure = link.receive()
    if not isinstance(configure, Configure):
        raise TypeError(f"the first message is {type(configure).__name__}, not Configure")
    worker = Worker(link, configure)
    with logging_to_stderr(configure.log_level):
        threading.Thread(target=worker.listen, name="listen", daemon=True).start()
        try:
            worker.load()
        except Exception as error:
            _log.exception("the model could not be loaded")
            link.send(LoadFailed(f"{type(error).__name__}: {error}"))
            raise SystemExit(1) from error
        worker.run()


if __name__ == "__main__":
    main(sys.argv)
