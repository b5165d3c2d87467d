"""Continuous integration: what a machine lacks fails nothing there, a test that fails does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from grit_app.deploy.requirements import ROOT

PROGRAM = """#!/bin/bash
case "$1 $2" in
    "-c import sys"*) echo 3.11 ;;
    "-c "*) exit $NO_VENV ;;
    "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/pip" ;;
    "install -q") [ "$3" = -r ] && exit $NO_REQUIREMENTS; exit $NO_TORCH ;;
    "-m pytest") echo "pytest ran: ${@:3}"; exit $TESTS_FAIL ;;
esac
"""
"""Stands for each interpreter and each pip."""


@pytest.mark.parametrize(
    ("missing", "code", "said", "runs"),
    [
        ("", 0, "The quick tests on torch", 2),
        ("NO_VENV", 0, "No python3.12 here", 0),
        ("NO_TORCH", 0, "No CPU build of torch", 0),
        ("NO_REQUIREMENTS", 0, "could not be installed", 0),
        ("TESTS_FAIL", 1, "The quick tests on torch", 1),
    ],
)
def test_a_second_torch_or_python_that_is_not_to_be_had_fails_nothing(
    tmp_path: Path, missing: str, code: int, said: str, runs: int
) -> None:
    clone, programs = tmp_path / "clone", tmp_path / "programs"
    (clone / ".ci").mkdir(parents=True)
    programs.mkdir()
    for name in (".ci/run", "pyproject.toml", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, clone / name)
    for name in ("python3", "python3.12"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    switches = dict.fromkeys(("NO_VENV", "NO_TORCH", "NO_REQUIREMENTS", "TESTS_FAIL"), "0")
    environment = os.environ | switches | {"PATH": f"{programs}:{os.environ['PATH']}"}
    if missing:
        environment[missing] = "1"
    done = subprocess.run(
        ["bash", str(clone / ".ci" / "run"), "elsewhere"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout
    assert done.stdout.count("pytest ran: -m quick") == runs
