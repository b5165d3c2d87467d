"""The code runs on two versions of torch: the newest, and the one of Spaces on ZeroGPU.

Continuous integration runs the quick tests on both where the older one has a CPU build. Elsewhere this stands for it:
every name of torch that the code uses is in the list of names that the sources of the older version have.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tests.source import code_files, source

KNOWN = Path(__file__).with_name("torch-2.11-names.txt")


def test_every_name_of_torch_is_known_to_the_older_version() -> None:
    known = set(KNOWN.read_text(encoding="utf-8").split())
    used = {name for path in code_files() for name in source(path).torch_names}
    assert len(used) > 80, "the walk has missed the names"
    assert used - known == set(), f"see that torch 2.11 has them, then add them to {KNOWN.name}"


def test_the_version_that_runs_is_between_the_two() -> None:
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    assert (2, 11) <= version <= (2, 13)
