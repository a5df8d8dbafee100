"""How the C library keeps memory, for a while: steady over long work, or used again at once. Only glibc is told."""

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Numbers of glibc's options, from its malloc.h."""
_LARGE = 2**20


def total_bytes() -> int:
    """Memory that this process may have: of the machine, or less where a control group limits it."""
    limits = [2**63]
    with suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits)


@contextmanager
def steady_memory() -> Iterator[None]:
    """For a while, let every array of a megabyte or more take memory of its own, which the system gets back at once.

    glibc takes arrays of up to 32 MiB, as most of a tile are, from one heap, and large arrays of many sizes leave
    holes in it that do not fit the next: measuring pairs of 1024 px it grew by 20 MiB for each. Holds for the whole
    process. Without glibc, nothing is done.
    """
    # afterwards: where glibc comes to by itself once large arrays were freed
    with _told({_MMAP_THRESHOLD: _LARGE}, afterwards={_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}):
        yield


@contextmanager
def reused_memory() -> Iterator[None]:
    """Let the whole process use freed memory again, instead of giving it back to the system, for a while.

    By default glibc returns the memory of each large tensor when it is freed. The next tensor then gets pages that the
    system must first clear, layer by layer: a quarter of the time of a network on a CPU. Without glibc, nothing is
    done. Memory is cut into more pieces so; for networks that are not folded it nearly doubles, and is not worth it.
    """
    usual = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}
    with _told({_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}, afterwards=usual) as libc:
        try:
            yield
        finally:
            if libc:
                libc.malloc_trim(0)


@contextmanager
def _told(options: Mapping[int, int], afterwards: Mapping[int, int]) -> Iterator[ctypes.CDLL | None]:
    """Set glibc's options, and others at the end; None where there is no glibc."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield None
        return
    for option, value in options.items():
        libc.mallopt(option, value)
    try:
        yield libc
    finally:
        for option, value in afterwards.items():
            libc.mallopt(option, value)
