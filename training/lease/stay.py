"""What run.sh does on the machine: train by the clock, evaluate at the end, write the change of the weights."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from grit_app.gritlm.load import int8
from grit_app.gritlm.load.loading import load_hf_model
from training.config import TrainError
from training.lease.pack import STAY
from training.lease.parts import write_parts
from training.run.checkpoint import checkpoints
from training.run.estimate import read_recipe
from training.train import train

RESULT = "result"


def stay(folder: Path, results: Path, began: float | None, say: Callable[[str], None] = print) -> list[Path]:
    """Runs the unpacked stay in `folder`; gives the pieces in `results`. `began`: seconds since 1970."""
    results = results.resolve()
    os.chdir(folder)  # the packed recipe names its files from here
    planned = json.loads(Path(STAY).read_text(encoding="utf-8"))
    config = read_recipe(Path("recipe.yaml"))
    minutes = planned["minutes"] - planned["evaluation_s"] / 60
    on_gpu = torch.cuda.is_available()
    run = replace(
        config.run,
        minutes=minutes,  # a recipe's own run.steps may end it before
        precision=config.run.precision if on_gpu else "fp32",
        loader_processes=config.run.loader_processes if on_gpu else 0,
    )
    spent_s = time.time() - began if began is not None else 0.0
    with Path("train.log").open("w", encoding="utf-8") as file:

        def tell(line: str) -> None:
            say(line)
            file.write(line + "\n")
            file.flush()

        train(replace(config, run=run), tell, began=time.monotonic() - spent_s)
    return write_result(Path("start"), Path("run"), results, planned["piece_bytes"], say)


def write_result(start: Path, run: Path, results: Path, piece_bytes: int, say: Callable[[str], None]) -> list[Path]:
    """The change from `start` to the newest checkpoint as int8 rows, with settings and log, in pieces."""
    found = checkpoints(run)
    if not found:
        raise TrainError("The run saved no checkpoint: its time ended before the first step. Pack more minutes.")
    newest, stage = found[-1], Path("result")
    stage.mkdir()
    shutil.copyfile(start / "config.json", stage / "config.json")
    before, after = (_weights(path) for path in (start, newest))
    int8.write({name: after[name] - before[name] for name in after}, stage)
    for path in (newest / "recipe.json", newest / "grit_config.json", run / "metrics.jsonl", Path("train.log")):
        if path.is_file():
            shutil.copyfile(path, stage / path.name)
    (stage / "name.txt").write_text(newest.name + "\n", encoding="utf-8")
    pieces = write_parts(stage, results, RESULT, piece_bytes)
    say(f"{newest.name}: {len(pieces)} pieces in {results}")
    return pieces


def _weights(folder: Path) -> dict[str, Tensor]:
    """Float32, each tied weight once."""
    model = load_hf_model(folder, device=torch.device("cpu"), dtype=torch.float32, quantization="none")
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
