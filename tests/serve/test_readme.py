"""The lines for programs in the README and docs/clients.md, as they stand there. Only the address is this server's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.serve.conftest import Server

ADDRESS = "http://127.0.0.1:7860"
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CLIENTS = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
SLOW = ("LlamaIndex", "LiteLLM", "Rerank", "mteb")
"""Clients whose import takes seconds."""


def blocks(text: str, language: str) -> list[tuple[str, str]]:
    """(heading, code) of each block in that language."""
    parts = re.split(r"^## (.*)\n", text, flags=re.M)
    found = zip(parts[1::2], parts[2::2], strict=True)
    return [(name, code) for name, body in found for code in re.findall(rf"```{language}\n(.*?)```", body, re.S)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("text", ["".join(README.partition("## Use it")[1:]), CLIENTS], ids=["readme", "clients"])
def test_the_curl_lines_are_answered(server: Server, text: str) -> None:
    lines = [line for _, code in blocks(text, "sh")[:1] for line in code.splitlines()]
    assert len(lines) == 4
    for line in lines:
        command = line.replace(ADDRESS, server.url)
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, timeout=600)
        assert "error" not in json.loads(done.stdout), done.stdout


def examples(*, slow: bool) -> list[pytest.ParameterSet]:
    found = [(name, code) for name, code in blocks(CLIENTS, "python") if (name in SLOW) == slow]
    return [pytest.param(code, id=f"{name} {number}") for number, (name, code) in enumerate(found)]


@pytest.mark.parametrize("code", examples(slow=False))
def test_the_examples_of_clients_run(server: Server, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ADDRESS in code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code.replace(ADDRESS, server.url), "clients.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.strip()


@pytest.mark.long
@pytest.mark.parametrize("code", examples(slow=True))
def test_the_examples_of_slow_clients_run(server: Server, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a process of its own: they leave event loops and sockets behind."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    command = [sys.executable, "-W", "ignore", "-c", code.replace(ADDRESS, server.url)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or "print" not in code
