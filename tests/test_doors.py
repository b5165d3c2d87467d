"""What the world does not give is a sentence: folders, ports, letters, names."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from grit_app import doors
from grit_app.errors import DocumentError, SettingsError


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
