"""Checkpoint folders that are whole or absent: written aside, then renamed."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class RunState:
    """Where a run stands: the number of finished optimizer steps and of trained tokens."""

    step: int = 0
    tokens: int = 0


def save_checkpoint(
    folder: Path, state: RunState, model: Any, tokenizer: Any, optimizers: list[Any], keep: int = 2
) -> Path:
    """Write `folder/step-NNNNNN`, point the link `latest` to it, and drop all but the newest `keep`.

    A kill at any moment leaves only whole ones.
    """
    target = folder / f"step-{state.step:06d}"
    aside = folder / f".{target.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model.save_pretrained(str(aside))
    tokenizer.save_pretrained(str(aside))
    torch.save([o.state_dict() for o in optimizers], aside / "optimizers.pt")
    (aside / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
    if target.exists():
        shutil.rmtree(target)
    aside.replace(target)
    link = folder / ".latest.tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    link.replace(folder / "latest")
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def load_state(folder: Path) -> RunState:
    return RunState(**json.loads((folder / "state.json").read_text(encoding="utf-8")))
