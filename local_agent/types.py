"""What the web process and the worker process say to each other, and what a generation is.

Every message is a tagged msgspec struct; `frames` turns them into bytes. Nothing here imports a
web framework or torch.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, TypeAlias

import msgspec

__all__ = [
    "Beat",
    "Cancel",
    "Configure",
    "Failed",
    "FinishReason",
    "Finished",
    "FromWorker",
    "Generate",
    "Generation",
    "LoadFailed",
    "LoadedModel",
    "Phase",
    "Piece",
    "Ready",
    "Sampling",
    "ToWorker",
]

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]


class Phase(str, Enum):
    """What the worker is doing; the watchdog's patience and `/readyz` depend on it."""

    STARTING = "starting"
    DOWNLOADING = "downloading"
    CONVERTING = "converting"
    LOADING = "loading"
    IDLE = "idle"
    PREFILL = "prefill"
    DECODE = "decode"
    RESTARTING = "restarting"
    STOPPED = "stopped"

    @property
    def serving(self) -> bool:
        """Whether a worker in this phase has its model loaded."""
        return self in (Phase.IDLE, Phase.PREFILL, Phase.DECODE)


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is chosen."""

    temperature: float = 0.7
    top_p: float | None = None
    """None takes the model's own default."""
    top_k: int | None = None
    """0 looks at the whole vocabulary, None takes the model's own default."""
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class Generation(msgspec.Struct, frozen=True):
    """One request for text, free of any wire dialect.

    Exactly one of `messages` and `prompt` is set.
    """

    messages: list[dict[str, Any]] | None = None
    """A conversation, rendered through the model's own chat template."""
    prompt: str | None = None
    """Raw text that the model continues; no template."""
    prefill: str = ""
    """The beginning of the answer; the generated text continues it."""
    origin: str = "prompt"
    """The request field that the prompt came from; errors name it."""
    max_tokens: int | None = None
    """None means as much as the context leaves."""
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()


class LoadedModel(msgspec.Struct, frozen=True):
    """The model that a worker serves."""

    id: str
    context_length: int
    max_output_tokens: int
    capabilities: tuple[str, ...]
    device: str
    dtype: str
    fallback_reason: str | None = None


class Configure(msgspec.Struct, frozen=True, tag=True):
    """First message to a worker: everything it needs to load its model."""

    model: str
    cache_dir: str
    device: str
    threads: int
    max_running: int
    log_level: str
    context_length: int | None = None
    hub_token: str | None = None
    hub_endpoint: str | None = None
    """A hub other than the public one."""
    use_embedded: str | None = None
    """Why the embedded model is to be used instead of `model`, if it is."""
    hang_limit_s: float = 120.0
    """A step longer than this ends the worker from within, should nobody be left to kill it."""


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Run a generation under an id of the web process's choosing."""

    id: int
    generation: Generation


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Stop a generation; the worker answers `Finished` with reason `cancelled`."""

    id: int


class Beat(msgspec.Struct, frozen=True, tag=True):
    """A sign of life: the phase, a counter that grows, and progress where the phase has one."""

    phase: Phase
    step: int = 0
    done: int = 0
    total: int = 0
    detail: str = ""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded."""

    model: LoadedModel


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """No model could be loaded; the worker exits."""

    message: str


class Piece(msgspec.Struct, frozen=True, tag=True):
    """Text of a generation; `tokens` is the number of completion tokens so far."""

    id: int
    text: str
    tokens: int


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The regular end of a generation."""

    id: int
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A generation that could not be run; `code` is the code of an error in `shared.errors`."""

    id: int
    code: str
    message: str
    param: str | None = None


ToWorker: TypeAlias = Configure | Generate | Cancel
FromWorker: TypeAlias = Beat | Ready | LoadFailed | Piece | Finished | Failed
