"""Keeps the heap of a process that trains on a CPU from growing with the number of chunks."""

from __future__ import annotations

import ctypes
import platform

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""glibc's malloc.h"""

_LIBC = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def keep_heap_small() -> None:
    """Sets the C library's allocator for many chunks of almost, but not quite, one size. Other libraries than glibc are
    left as they are.

    One heap for all threads that start from now on: by default the loader's and the backward pass's threads have heaps
    of their own; what a forward freed, backward cannot use, and every heap stays as large as it ever was.

    Tensors of 1 MiB and more outside of it: by default the limit rises with what is freed, and such a tensor then
    leaves a hole in the heap that the next, a little larger one does not fit.
    """
    if _LIBC:
        _LIBC.mallopt(_M_ARENA_MAX, 1)
        _LIBC.mallopt(_M_MMAP_THRESHOLD, 2**20)


def give_free_memory_back() -> None:
    """Returns what is free in the heap to the system: for use before a phase whose tensors have other sizes."""
    if _LIBC:
        _LIBC.malloc_trim(0)
