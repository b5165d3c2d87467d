"""The parity command: what it computes, and what it says. The published numbers need the published weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from grit_app.gritlm import GritLM
from grit_app.gritlm.load import parity


def test_the_command_compares_four_cosines(
    tiny_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Titles carry the instruction, abstracts do not; another model must fail, and with a wide tolerance pass."""
    folder = str(tiny_model_folder("mistral"))
    assert parity.main(["--model", folder, "--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    model = GritLM.from_pretrained(folder, device="cpu")  # in this processor's precision, as the command loads it
    titles = model.encode(parity.TITLES, instruction=parity.INSTRUCTION)
    abstracts = model.encode(parity.ABSTRACTS)
    shown = [float(line.split("here ")[1].split()[0]) for line in lines[:4]]
    np.testing.assert_allclose(shown, (titles @ abstracts.T).ravel(), atol=6e-4)
    assert [float(line.split("published ")[1].split()[0]) for line in lines[:4]] == [0.608, 0.101, 0.120, 0.533]
    assert parity.main(["--model", folder, "--device", "cpu", "--tolerance", "2"]) == 0


def test_a_model_that_cannot_be_loaded_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main(["--model", "no-such-folder", "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("There is no model folder 'no-such-folder'")
