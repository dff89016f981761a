"""The model catalogue: which names exist, where their weights are, what they need. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CATALOGUE",
    "DEFAULT_MODEL",
    "EMBEDDED_MODEL",
    "Choice",
    "HubSource",
    "ModelSpec",
    "UnknownModel",
    "choose",
    "find",
]

GIB = 1024**3
DEFAULT_MODEL = "local_mistral-7b-instruct-q4"
EMBEDDED_MODEL = "local_smollm2-135m-instruct"
Device = Literal["mps", "cuda", "cpu"]


class UnknownModel(ValueError):
    """A configured model name that is not in the catalogue."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of the Hugging Face hub.

    Attributes:
        repo: Owner and name.
        weights: Glob of the weight files; a repository may hold the same weights twice.
        gated: Whether a token of an account that has accepted the terms is needed.
    """

    repo: str
    weights: str = "model*.safetensors"
    gated: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model that the agent can serve.

    Attributes:
        id: What clients ask for.
        sources: Hub repositories, best first; empty for the model inside a Python package.
        context_length: Default context in tokens; never above what the model was trained for.
        memory: Bytes that the weights and one full context need on the device.
        devices: Devices on which serving it makes sense.
        int4: Whether the linear layers are held in 4 bits.
        top_p: Nucleus to draw from where a request says nothing.
        top_k: Candidates to draw from where a request says nothing; 0 for all.
    """

    id: str
    sources: tuple[HubSource, ...]
    context_length: int
    memory: int
    devices: tuple[Device, ...]
    int4: bool = False
    top_p: float = 1.0
    top_k: int = 0


CATALOGUE: tuple[ModelSpec, ...] = (
    ModelSpec(
        id=DEFAULT_MODEL,
        # The first holds the same weights in 4 bits already: a quarter of the download, no terms to accept.
        sources=(
            HubSource("mlx-community/Mistral-7B-Instruct-v0.3-4bit"),
            HubSource("mistralai/Mistral-7B-Instruct-v0.3", weights="model-*.safetensors", gated=True),
        ),
        context_length=8192,
        memory=9 * GIB,
        devices=("mps", "cuda"),
        int4=True,
    ),
    ModelSpec(
        id=EMBEDDED_MODEL,
        sources=(),
        context_length=8192,
        memory=1 * GIB,
        devices=("mps", "cuda", "cpu"),
        # So small a model spreads much of its probability over nonsense.
        top_p=0.9,
        top_k=40,
    ),
)


def find(name: str, catalogue: Iterable[ModelSpec] = CATALOGUE) -> ModelSpec:
    """Return the model of that name.

    Raises:
        UnknownModel: There is none; the message lists the names there are.
    """
    known = {spec.id: spec for spec in catalogue}
    if name not in known:
        raise UnknownModel(f"LOCAL_AGENT_MODEL={name!r} is not a known model. Known models: {', '.join(known)}.")
    return known[name]


@dataclass(frozen=True, slots=True)
class Choice:
    """The model to load, and why it is not the one asked for (None if it is)."""

    spec: ModelSpec
    fallback_reason: str | None = None


def choose(requested: str, device: str, memory: int, catalogue: Sequence[ModelSpec] = CATALOGUE) -> Choice:
    """Decide which model a device can serve.

    Args:
        requested: The configured model name.
        device: `mps`, `cuda` or `cpu`.
        memory: Bytes that models may use on that device.
        catalogue: The models there are.

    Raises:
        UnknownModel: No model of that name.
    """
    spec = find(requested, catalogue)
    embedded = find(EMBEDDED_MODEL, catalogue)
    if spec.id == embedded.id:
        return Choice(spec)
    if device not in spec.devices:
        needed = " or ".join(name.upper() for name in spec.devices)
        return Choice(embedded, f"{spec.id} needs {needed}; the device here is {device}.")
    if memory < spec.memory:
        have, need = memory / GIB, spec.memory / GIB
        return Choice(embedded, f"{spec.id} needs {need:.1f} GiB of device memory; {have:.1f} GiB are available.")
    return Choice(spec)
