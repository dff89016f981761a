"""The C library's allocator, set so that what a large body took goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import platform

__all__ = ["return_large_blocks"]

_M_MMAP_THRESHOLD = -3
_LARGE = 4 * 1024 * 1024


def return_large_blocks() -> bool:
    """Have every block of 4 MiB and more given back as soon as it is free; return whether that could be set.

    glibc gives large blocks pages of their own, but takes the size of each one that is freed for the size from
    which on it does so, up to 32 MiB. After the first body of 20 MiB, later ones come from the heap, where one small
    object above them keeps their pages for good. A size that is set stays. Other allocators are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE))
    return False
