"""The process in which a model's program runs: `python -I child.py FOLDER MEMORY_BYTES CPU_S < program`.

Before the program is read, the process gives up for good, by the kernel's own means and without any privilege:

- writing anywhere but in FOLDER (Landlock), and changing modes, owners, times of files
- sockets, other processes (no fork, no exec, no threads, no signals), tracing, mounts, namespaces (seccomp)
- more memory, time, bytes in a file than allowed (resource limits)

Reading files stays possible: what is read can go nowhere. Ends with code 70 where the kernel offers less than this; the
program is then not run. Nothing of the project is imported here: the file is run by itself.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys

NOT_SAFE = 70
FILE_BYTES = 16 << 20
OPEN_FILES = 64

LIBC = ctypes.CDLL(None, use_errno=True)

SET_NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER_MODE = 38, 22, 2
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446

OLDEST_LANDLOCK = 3
"""Since then cutting a file short counts as writing it."""

WRITING = sum(1 << bit for bit in (1, *range(4, 15)))
"""Landlock's rights to write, remove, make, rename and truncate."""

MACHINES = {
    # name → (audit number, denied system calls)
    "x86_64": (
        0xC000003E,
        [
            *(41, 53, 425, 426, 427),  # sockets, io_uring
            *(56, 57, 58, 59, 322, 435),  # clone, fork, exec
            *(62, 129, 200, 234, 297, 424, 434),  # signals to anybody, pidfd
            *(
                101,
                310,
                311,
                302,
                160,
                141,
                142,
                144,
                203,
                251,
                314,
                438,
            ),  # tracing, others' memory, limits, priorities
            *(90, 91, 92, 93, 94, 260, 268, 452, 132, 235, 261, 280, *range(188, 191), *range(197, 200), 463, 466),
            *(165, 166, 155, 161, 272, 308, *range(428, 434), 442),  # mounts, namespaces
            *(
                109,
                112,
                169,
                170,
                171,
                175,
                176,
                246,
                248,
                249,
                250,
                298,
                313,
                320,
                321,
                323,
                159,
                163,
                164,
                167,
                168,
                227,
                305,
            ),  # groups, kernel, clocks
            *(29, 64, 68, 240),  # memory and queues that outlive a process
        ],
    ),
    "aarch64": (
        0xC00000B7,
        [
            *(198, 199, 425, 426, 427),
            *(220, 221, 281, 435),
            *(129, 130, 131, 138, 240, 424, 434),
            *(117, 270, 271, 438),
            *(261, 164, 140, 118, 119, 122, 30, 274),
            *(52, 53, 54, 55, 452, 88, *range(5, 8), *range(14, 17), 463, 466),
            *(40, 39, 41, 51, 97, 268, *range(428, 434), 442),
            *(
                154,
                157,
                142,
                161,
                162,
                105,
                106,
                217,
                218,
                219,
                241,
                273,
                280,
                294,
                282,
                104,
                89,
                112,
                170,
                171,
                224,
                225,
                266,
            ),
            *(194, 190, 186, 180),
        ],
    ),
}


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def confine(folder: str, memory_bytes: int, cpu_s: int) -> None:
    """All of it, or OSError."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    _call(LIBC.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _write_only_in(folder)
    _deny_system_calls()


def _write_only_in(folder: str) -> None:
    if LIBC.syscall(CREATE_RULESET, None, 0, 1) < OLDEST_LANDLOCK:
        raise OSError("this kernel has no Landlock")
    handled = ctypes.c_uint64(WRITING)
    rules = _call(LIBC.syscall(CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0))
    place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    rule = _Beneath(WRITING, place)
    _call(LIBC.syscall(ADD_RULE, rules, 1, ctypes.byref(rule), 0))
    _call(LIBC.syscall(RESTRICT_SELF, rules, 0))
    os.close(place)
    os.close(rules)


def _deny_system_calls() -> None:
    """A filter: another architecture's calls end the process, denied ones fail with EPERM."""
    if platform.machine() not in MACHINES:
        raise OSError(f"no filter is known for {platform.machine()}")
    audit, denied = MACHINES[platform.machine()]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    kill, allow, refuse = 0x80000000, 0x7FFF0000, 0x00050001
    lines = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill), (load, 0, 0, 0)]
    lines += [(at_least, 0, 1, 0x40000000), (give, 0, 0, kill)]  # the x32 calls of the same processor
    for number in sorted(set(denied)):
        lines += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    lines.append((give, 0, 0, allow))
    instructions = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    program = _Program(len(lines), instructions)
    _call(LIBC.prctl(SET_SECCOMP, FILTER_MODE, ctypes.byref(program), 0, 0))


def _call(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def main() -> None:
    folder, memory_bytes, cpu_s = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    program = sys.stdin.read()
    os.chdir(folder)
    try:
        confine(folder, memory_bytes, cpu_s)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        os._exit(NOT_SAFE)
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
