"""How much a router-only installation takes on disk."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["closure", "router_only_mb", "site_packages_mb"]

_DISTRIBUTION = "inference-router"
_PACKAGES = ("router", "shared")
_TOOLS = re.compile(r"^(pip|setuptools|_distutils_hack|distutils-precedence|pkg_resources)\b")


def closure(root: str) -> dict[str, Distribution]:
    """Return the distributions that an installed one needs, without any of its own extras, itself left out."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, "")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            one = distribution(name)
        except PackageNotFoundError:
            continue  # left out on this platform by a marker that names an extra of another package
        if name != root:
            found[name] = one
        for requirement in map(Requirement, one.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                child = re.sub(r"[-_.]+", "-", requirement.name).lower()
                waiting += [(child, ""), *((child, wanted) for wanted in requirement.extras)]
    return found


def router_only_mb(source: Path) -> float:
    """Return the size in MB of the router, what it shares, and everything that pip installs for it.

    It is counted in the present environment, which holds more: compiled modules included, pip itself not.

    Args:
        source: The repository's root, for the router's own packages.
    """
    own = (path for name in _PACKAGES for path in (source / name).rglob("*") if path.suffix != ".pyc")
    theirs = (
        Path(str(file.locate())) for one in closure(_DISTRIBUTION).values() for file in (one.files or ())
    )  # what is in RECORD, compiled modules included
    return _mb((*own, *theirs))


def site_packages_mb(venv: Path) -> float:
    """Return the size in MB of what is installed in a virtual environment, pip and setuptools left out."""
    folders = [entry for entry in venv.glob("lib/python*/site-packages/*") if not _TOOLS.match(entry.name)]
    return _mb(path for folder in folders for path in (folder.rglob("*") if folder.is_dir() else (folder,)))


def _mb(paths: Iterable[Path]) -> float:
    sizes = {path.resolve(): path.stat().st_size for path in paths if path.is_file() and not path.is_symlink()}
    return round(sum(sizes.values()) / 1e6, 1)
