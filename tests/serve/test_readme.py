"""The README's lines for programs, as they stand there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serve.conftest import Server

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_lines_of_the_readme_are_answered(server: Server) -> None:
    """Only the address is this server's."""
    section = README.split("## Use it from programs")[1].split("\n## ")[0]
    lines = [line for block in re.findall(r"```sh\n(.*?)```", section, re.S) for line in block.splitlines()]
    assert len(lines) == 4
    for line in lines:
        command = line.replace("http://127.0.0.1:7860", server.url)
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, timeout=60)
        assert "error" not in json.loads(done.stdout), done.stdout
