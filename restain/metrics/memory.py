"""Gives freed memory back to the system, so that a long evaluation takes no more of it than a short one."""

import ctypes
import sys


def give_back() -> None:
    """Give back what is free in the middle of the heap too; without glibc, nothing is done.

    glibc keeps blocks of up to 32 MiB, as most tensors of a tile are, in a heap that it shortens from its end only. A
    heap that tensors of many sizes come from and go to grows by about 20 MiB for each tile of 1024 px.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
