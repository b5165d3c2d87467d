"""What the C library does with memory after `keep_heap_small`, told by its own counters."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, threading
from training.run import heap

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype = Info, ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
if {called}:
    heap.keep_heap_small()
libc.free(libc.malloc(8 << 20))        # glibc's moving limit now lies above 2 MiB
mapped = libc.mallinfo2().hblks
block = libc.malloc(2 << 20)
print(libc.mallinfo2().hblks - mapped)

def heaps():
    libc.fopen.restype = ctypes.c_void_p
    file = ctypes.c_void_p(libc.fopen(b"{report}", b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    return open("{report}").read().count("<heap nr=")

before = heaps()
thread = threading.Thread(target=lambda: libc.malloc(1 << 10))
thread.start(); thread.join()
print(heaps() - before)
heap.give_free_memory_back()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets glibc's allocator")
@pytest.mark.parametrize(("called", "expected"), [(True, ["1", "0"]), (False, ["0", "1"])])
def test_large_pieces_are_mapped_and_threads_share_a_heap(tmp_path: Path, called: bool, expected: list[str]) -> None:
    """A piece of 2 MiB outside of the heap; no second heap for a thread. Without the call it is the other way round."""
    program = PROGRAM.format(called=called, report=tmp_path / "report.xml")
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == expected
