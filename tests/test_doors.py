"""What the world does not give is a sentence: folders, ports, letters, names."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from grit_app import doors
from grit_app.errors import DocumentError, SettingsError

ROOT = Path(__file__).resolve().parents[1]


def start(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "app.py"), *flags], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_port_in_use_and_a_file_for_a_folder_end_the_start_with_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "afile"
    file.write_text("x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = start("--port", str(port), "--data_dir", str(tmp_path / "data"))
        assert (ended.returncode, ended.stderr) == (2, f"Port {port} is in use. Choose another with --port.\n")
    ended = start("--data_dir", str(file))
    assert ended.returncode == 2
    assert ended.stderr == f"The data folder {file} cannot be used: it is a file. Choose another with --data_dir.\n"


def test_an_address_of_another_machine_is_a_sentence() -> None:
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1 is no address of this machine"):
        doors.check_port("192.0.2.1", 45678)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="nothing is unwritable here")
def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(DocumentError, match=r"The data folder /proc/nohome/data cannot be used: .*--data_dir"):
        doors.make_usable(Path("/proc/nohome/data"))


def test_letters_that_a_terminal_lacks_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    doors.replace_unknown_letters()
    print("é 钥匙", file=sys.stdout, flush=True)
    assert terminal.buffer.getvalue() == b"\xe9 ??\n"  # type: ignore[attr-defined]
    assert not doors.writes_unicode()


def test_a_name_in_another_encoding_is_text() -> None:
    assert doors.shown(os.fsdecode(b"caf\xe9.txt")) == "caf�.txt"
    assert doors.shown("café.txt") == "café.txt"
