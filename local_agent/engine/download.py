"""Weights from the Hugging Face hub, with progress that can be watched."""

from __future__ import annotations

import fnmatch
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

from local_agent.engine.convert import exclusive
from local_agent.models import HubSource, ModelSpec

__all__ = ["DownloadFailed", "download", "stored_bytes"]

_SMALL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "*.jinja")
_LOG_EVERY_S = 10.0
_log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


class DownloadFailed(Exception):
    """No source of a model could be fetched; the message says why, per source."""


def stored_bytes(directory: Path) -> int:
    """Return the bytes below a directory, unfinished downloads included."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed from its temporary name meanwhile
            continue
    return total


def download(
    spec: ModelSpec, cache: Path, token: str | None, progress: Progress, *, endpoint: str | None = None
) -> Path:
    """Return a directory with the model's files, fetching what is missing.

    Interrupted downloads continue where they stopped. A model that is complete on disk needs no
    network.

    Args:
        spec: The model; its sources are tried in order.
        cache: Where models are kept.
        token: A Hugging Face token, for gated repositories.
        progress: Called about once a second with bytes done and bytes in all.
        endpoint: A hub other than the public one.

    Raises:
        DownloadFailed: Every source failed.
    """
    places = [(source, cache / f"{spec.id}-{source.repo.replace('/', '--')}") for source in spec.sources]
    for _, target in places:
        if (target / ".complete").is_file():
            return target
    failures = []
    with exclusive(cache / f".{spec.id}.lock"):
        for source, target in places:
            if (target / ".complete").is_file():
                return target
            try:
                _fetch(source, target, token, progress, endpoint)
            except Exception as error:  # noqa: BLE001 - the hub client raises many kinds; the next source may do
                reason = str(error).strip().splitlines() or [type(error).__name__]
                failures.append(f"{source.repo}: {reason[0]}")
                _log.warning("model source failed", extra={"fields": {"repo": source.repo, "reason": reason[0]}})
            else:
                return target
    raise DownloadFailed("; ".join(failures))


def _fetch(source: HubSource, target: Path, token: str | None, progress: Progress, endpoint: str | None) -> None:
    # Never the login of whoever started the agent: only the token the settings name.
    credential = token or False
    info = HfApi(endpoint=endpoint).model_info(source.repo, files_metadata=True, token=credential)
    patterns = (*_SMALL_FILES, source.weights, f"{source.weights}.index.json", "model.safetensors.index.json")
    wanted = {
        file.rfilename: file.size or 0
        for file in info.siblings or ()
        if any(fnmatch.fnmatch(file.rfilename, pattern) for pattern in patterns)
    }
    total = sum(wanted.values())
    target.mkdir(parents=True, exist_ok=True)
    _log.info("downloading weights", extra={"fields": {"repo": source.repo, "bytes": total, "to": str(target)}})
    stop = threading.Event()
    reporter = threading.Thread(target=_report, args=(target, total, progress, stop), daemon=True)
    reporter.start()
    try:
        for name in wanted:
            hf_hub_download(source.repo, name, revision=info.sha, local_dir=target, token=credential, endpoint=endpoint)
    finally:
        stop.set()
        reporter.join()
    (target / ".complete").write_text(info.sha or "")


def _report(target: Path, total: int, progress: Progress, stop: threading.Event) -> None:
    """Watch the bytes on disk; the hub client's own progress bars are made for terminals."""
    begun = logged = time.monotonic()
    first = stored_bytes(target)
    while not stop.wait(1.0):
        done = min(stored_bytes(target), total)
        progress(done, total)
        now = time.monotonic()
        if now - logged >= _LOG_EVERY_S:
            logged = now
            rate = max(0, done - first) / (now - begun)
            _log.info(
                "download progress",
                extra={
                    "fields": {
                        "percent": round(100 * done / total, 1) if total else 0.0,
                        "mib_done": done >> 20,
                        "mib_total": total >> 20,
                        "mib_per_s": round(rate / (1 << 20), 1),
                    }
                },
            )
