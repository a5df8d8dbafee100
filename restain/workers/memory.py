"""Memory settings of glibc for some time: steady over long work, or fast reuse."""

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
    """Memory available to this process: that of the machine, or the limit of its control group."""
    limits = [2**63]
    with suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits)


@contextmanager
def steady_memory() -> Iterator[None]:
    """Within the context, allocate each array of a megabyte or more separately and return it to the system at once.

    glibc allocates arrays of up to 32 MiB, such as those of a tile, from one heap, which large arrays of many sizes
        fragment: it grew by 20 MiB per pair of 1024 px. Applies to the whole process. Without glibc it does nothing.
    """
    # afterwards: the value that glibc reaches once large arrays were freed
    with _told({_MMAP_THRESHOLD: _LARGE}, afterwards={_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}):
        yield


@contextmanager
def reused_memory() -> Iterator[None]:
    """Within the context, let the process reuse freed memory instead of returning it to the system.

    By default glibc returns the memory of each large tensor when it is freed, and the system must clear the pages of
    the next one: a quarter of the time of a network on a CPU. Without glibc it does nothing. Fragmentation
    increases; for networks that are not folded memory nearly doubles, which is not worth it.
    """
    usual = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}
    with _told({_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}, afterwards=usual) as libc:
        try:
            yield
        finally:
            if libc:
                libc.malloc_trim(0)


def return_free_memory() -> None:
    """Return to the system what is free in the heap, holes between what is in use included; without glibc nothing."""
    libc = _libc()
    if libc:
        libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    """glibc, where it is what this process runs on."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") else None


@contextmanager
def _told(options: Mapping[int, int], afterwards: Mapping[int, int]) -> Iterator[ctypes.CDLL | None]:
    """Set glibc's options, and others at the end; None without glibc."""
    libc = _libc()
    if libc is None:
        yield None
        return
    for option, value in options.items():
        libc.mallopt(option, value)
    try:
        yield libc
    finally:
        for option, value in afterwards.items():
            libc.mallopt(option, value)
