"""Runs a program in a confined child (`child.py`) and tells how it ended.

    passes(solution + tests)          # True: the last line was reached

Linux alone, with Landlock (kernel 6.2 or later); elsewhere nothing is run and SandboxError says so.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grit_app.errors import GritError
from training.paper.sandbox.child import NOT_SAFE

CHILD: Final = Path(__file__).with_name("child.py")
TIMEOUT_S: Final = 10.0
MEMORY_BYTES: Final = 1 << 30
TOLD_BYTES: Final = 4000
"""Of a program's output that are kept."""


class SandboxError(GritError):
    """This machine cannot confine a program, so none was run."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    passed: bool
    """Its last line was reached, and it ended by itself without an error."""

    is_late: bool
    output: str
    """The end of what it printed, errors included."""


def passes(program: str, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES) -> bool:
    """Whether the program runs to its last line without an error. Raises SandboxError."""
    return run(program, timeout_s, memory_bytes).passed


def run(program: str, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES) -> Ended:
    """Runs the program in an empty folder of its own, which is removed afterwards. Raises SandboxError."""
    reached = secrets.token_hex(16)  # a program that ends itself early has not passed
    with tempfile.TemporaryDirectory(prefix="program-") as folder, tempfile.TemporaryFile() as told:
        command = [sys.executable, "-I", str(CHILD), folder, str(memory_bytes), str(int(timeout_s) + 1)]
        is_late = False
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=told, stderr=told, env={}, cwd=folder)
        try:
            child.communicate(f"{program}\nprint({reached!r})\n".encode(), timeout_s)
        except subprocess.TimeoutExpired:
            is_late = True
        finally:
            child.kill()
            child.wait()
        told.seek(0, 2)
        told.seek(max(0, told.tell() - TOLD_BYTES))
        output = told.read().decode("utf-8", "replace")
    if child.returncode == NOT_SAFE and not output.rstrip().endswith(reached):
        raise SandboxError(
            f"A model's program was not run: this machine cannot confine it ({output.strip()}). Use Linux 6.2 or later "
            "on x86_64 or aarch64."
        )
    passed = not is_late and child.returncode == 0 and output.rstrip().endswith(reached)
    return Ended(passed, is_late, output.replace(reached, "").strip())
