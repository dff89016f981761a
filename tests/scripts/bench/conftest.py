"""The benchmark's programs, built once for all of its tests."""

from __future__ import annotations

import pytest

from scripts.bench.native import Tools, build, compiler


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    """The mock and the load generator, built by the C compiler of this machine."""
    if compiler() is None:
        pytest.skip("there is no C compiler")
    return build(tmp_path_factory.mktemp("bench"))
