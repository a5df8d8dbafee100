"""Keeps the memory of long work as small as that of short work."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's options, from its malloc.h."""
_LARGE = 2**20
_USUAL = {_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}
"""Where glibc comes to by itself once large arrays were freed."""


@contextmanager
def steady_memory() -> Iterator[None]:
    """For a while, let every array of a megabyte or more take memory of its own, which the system gets back at once.

    glibc takes arrays of up to 32 MiB, as most of a tile are, from one heap, and large arrays of many sizes leave
    holes in it that do not fit the next: measuring pairs of 1024 px it grew by 20 MiB for each. Holds for the whole
    process. Without glibc, nothing is done.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        for option, value in _USUAL.items():
            libc.mallopt(option, value)
