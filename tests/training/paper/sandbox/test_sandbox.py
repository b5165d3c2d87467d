"""Hostile programs reach nothing: no network, no file outside their folder, no other process, no end of time or
memory."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from training.paper.sandbox import child
from training.paper.sandbox.run import Ended, SandboxError, passes, run

SOLUTION = "def add(a, b):\n    return a + b\n"


def denied(program: str, **limits: float) -> Ended:
    ended = run(program, **limits)  # type: ignore[arg-type]
    assert not ended.passed
    return ended


def test_right_programs_pass_and_wrong_ones_fail() -> None:
    assert passes(SOLUTION + "assert add(2, 3) == 5")
    assert passes("import math, collections, itertools, re, json, typing\nopen('own.txt', 'w').write('x')")
    assert "AssertionError" in denied(SOLUTION + "assert add(2, 3) == 6").output
    assert "SyntaxError" in denied("def add(a, b:").output


@pytest.mark.parametrize("end", ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "exit()"])
def test_ending_early_is_not_passing(end: str) -> None:
    denied(f"{end}\nassert False")


def test_no_network() -> None:
    """A listener on this machine stands for the network."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2).sendall(b'secret')"
        assert "PermissionError" in denied(program).output
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    for kind in ("AF_INET, socket.SOCK_DGRAM", "AF_INET6, socket.SOCK_STREAM", "AF_UNIX, socket.SOCK_STREAM"):
        assert "PermissionError" in denied(f"import socket\nsocket.socket(socket.{kind})").output


@pytest.mark.parametrize(
    "attack",
    [
        "open({file!r}, 'w').write('changed')",
        "open({file!r}, 'a').write('changed')",
        "import os; os.truncate({file!r}, 0)",
        "import os; os.remove({file!r})",
        "import os; os.rename({file!r}, 'mine')",
        "import os; os.rename({file!r}, {file!r} + '2')",
        "import os; os.link({file!r}, 'mine'); open('mine', 'w').write('changed')",
        "import os; os.symlink({file!r}, 'mine'); open('mine', 'w').write('changed')",
        "import os; os.chmod({file!r}, 0o777)",
        "import os; os.utime({file!r}, (1, 1))",
        "import os; os.setxattr({file!r}, 'user.a', b'b')",
        "import os; os.mkdir({file!r} + '.d')",
        "import ctypes, os; d = ctypes.CDLL(None); f = d.open({file!r}.encode(), 1 | 512)\nassert f >= 0",
        "import os; fd = os.open({folder!r}, os.O_RDONLY); os.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=fd)",
        "import os; os.chroot('/'); open({file!r}, 'w').write('changed')",
    ],
)
def test_nothing_outside_the_folder_is_changed(attack: str, tmp_path: Path) -> None:
    target = tmp_path / "precious.txt"
    target.write_text("as it was", encoding="utf-8")
    target.chmod(0o600)
    before = (target.stat().st_mode, target.stat().st_mtime_ns, target.stat().st_nlink)
    told = denied(attack.format(file=str(target), folder=str(tmp_path))).output
    assert any(word in told for word in ("PermissionError", "AssertionError", "cross-device")), told
    assert target.read_text(encoding="utf-8") == "as it was"
    assert (target.stat().st_mode, target.stat().st_mtime_ns, target.stat().st_nlink) == before
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    "attack",
    [
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'], check=True)",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.system('true') == 0 or 1 / 0",
        "import threading; threading.Thread(target=print).start()",
        "import os; os.kill({parent}, 0)",
        "import os; os.setsid()",
        "import ctypes; ctypes.CDLL(None).ptrace(16, {parent}, 0, 0) == 0 or 1 / 0",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import ctypes; assert ctypes.CDLL(None).syscall(41, 2, 1, 0) >= 0",
        "import ctypes; ctypes.CDLL(None).syscall(41 | 0x40000000, 2, 1, 0)",
    ],
)
def test_no_other_process_is_reached(attack: str) -> None:
    denied(attack.format(parent=os.getpid()))


def test_time_ends() -> None:
    started = time.monotonic()
    assert denied("while True: pass", timeout_s=1.0).is_late
    assert denied("import time; time.sleep(60)", timeout_s=1.0).is_late
    assert time.monotonic() - started < 20


def test_memory_and_files_end() -> None:
    assert "MemoryError" in denied("x = bytearray(1 << 30)", memory_bytes=300 << 20).output
    assert denied("f = open('big', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20))")
    assert len(denied("while True: print('x' * 10000)").output) <= 4000


def test_its_folder_is_removed_and_its_environment_empty() -> None:
    ended = run("import os; print(os.getcwd(), sorted(os.environ))")
    folder, names = ended.output.split(maxsplit=1)
    assert not Path(folder).exists() and "GRIT" not in names and "HOME" not in names


def test_where_a_program_cannot_be_confined_it_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "child.py"
    text = Path(child.__file__).read_text(encoding="utf-8")
    copy.write_text(text.replace("OLDEST_LANDLOCK = 3", "OLDEST_LANDLOCK = 999"), encoding="utf-8")
    monkeypatch.setattr("training.paper.sandbox.run.CHILD", copy)
    with pytest.raises(SandboxError, match="no Landlock"):
        run("open('x', 'w')")
