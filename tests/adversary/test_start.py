"""Programs that cannot start: each ends with one sentence and status 2, before it has loaded anything."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {"page": ["app.py"], "server": ["-m", "grit_app.serve"]}


def start(program: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_cannot_be_served_ends_the_start_with_one_sentence(tmp_path: Path, program: str) -> None:
    file = tmp_path / "afile"
    file.write_text("x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = start(PROGRAMS[program], "--port", str(port), "--data_dir", str(tmp_path / "data"))
        assert (ended.returncode, ended.stderr) == (2, f"Port {port} is in use. Choose another with --port.\n")
    ended = start(PROGRAMS[program], "--data_dir", str(file))
    assert ended.returncode == 2
    assert ended.stderr == f"The data folder {file} cannot be used: it is a file. Choose another with --data_dir.\n"


@pytest.mark.parametrize(
    "command",
    [
        ["app.py", "--model"],
        ["-m", "grit_app.serve", "--model"],
        ["-m", "training.export", "--export_dir", "out", "--model"],
    ],
    ids=["page", "server", "export"],
)
def test_a_copy_of_a_model_that_was_cut_short_ends_every_command_with_one_sentence(
    tmp_path: Path, command: list[str]
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(ROOT / "training" / "toy" / "data" / "start", cut)
    save_file({"model.norm.weight": torch.ones(64)}, cut / "model.safetensors")
    os.truncate(cut / "model.safetensors", 200)
    ended = start(command, str(cut), *(["--data_dir", str(tmp_path / "data")] if "export" not in command[1] else []))
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and "is not a whole safetensors file" in ended.stderr
