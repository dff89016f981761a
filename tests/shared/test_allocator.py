"""allocator: a large block that is free is the system's again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from shared.allocator import return_large_blocks

PROGRAM = """
import sys
from shared.allocator import return_large_blocks

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

if sys.argv[1] == "set":
    assert return_large_blocks()
size = 20 * 1024 * 1024
del (first := [bytearray(size)])[0]
before = resident()
above = []
for _ in range(8):
    body = bytearray(size)
    above.append([bytes(400) for _ in range(2000)])
    del body
    above[-1] = above[-1][-1]
print((resident() - before) // 2**20)
"""


def grown(how: str) -> int:
    """Return by how many MiB a process grew over eight large blocks with small ones between."""
    told = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library: its allocator is left alone")
def test_large_blocks_are_given_back() -> None:
    """Whatever small objects were made beside them."""
    assert grown("set") < 10


def test_setting_it_tells_whether_it_could() -> None:
    """A system without glibc is not a fault."""
    assert return_large_blocks() == (platform.libc_ver()[0] == "glibc")
