"""Packs a stay: code, start weights, data, teachers' vectors, evaluation files, wheels, and the recipe for them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from grit_app.gritlm.load import int8
from grit_app.gritlm.load.loading import load_config, load_hf_model, quiet_transformers
from grit_app.gritlm.load.sources import find_folder
from training.config import DataFile, TrainConfig, TrainError
from training.data.formats import Dataset, open_datasets, open_text
from training.data.teachers import open_teachers, vectors_folder
from training.lease.parts import write_parts
from training.run.estimate import read_recipe
from training.step.distributed import Ranks

PROJECT = Path(__file__).parents[2]
CODE = ("grit_app", "training")
CODE_FILES = (".py", ".json", ".yaml", ".md")
LARGEST_CODE_BYTES = 400_000
"""Recorded figures and pictures stay at home."""

PART, STAY = "part", "stay.json"

RUN_SH = """#!/usr/bin/env bash
# Checks the parts, unpacks them, trains by the clock, and leaves what came out in results/ (or in the folder named).
set -euo pipefail
began=$(date +%s)
here=$(cd "$(dirname "$0")" && pwd)
results=$(mkdir -p "${1:-$here/results}" && cd "${1:-$here/results}" && pwd)
python=${PYTHON:-python3}
cd "$here"
sha256sum --quiet --check part.sha256 || { echo "A part is missing or damaged: copy it again." >&2; exit 2; }
mkdir -p lease
cat part-* | tar -x -C lease
cd lease
export PYTHONPATH="$PWD/code" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false USE_TORCH=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false
if ls wheels/*.whl >/dev/null 2>&1; then
    "$python" -m pip install --quiet --no-index --no-deps --target site wheels/*.whl
    export PYTHONPATH="$PYTHONPATH:$PWD/site"
fi
exec "$python" -m training.lease --run . --began "$began" --results "$results"
"""


def pack(
    recipe: Path,
    overrides: Sequence[str],
    out: Path,
    *,
    minutes: float,
    evaluation_s: float,
    part_bytes: int,
    piece_bytes: int,
    wheels: Sequence[Path] = (),
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Fills the new or empty folder `out`; gives its parts. Raises GritError with a sentence."""
    if out.exists() and any(out.iterdir()):
        raise TrainError(f"{out} is not empty. Name another folder with --out.")
    config = read_recipe(recipe, list(overrides))
    if config.adapter.method != "full":
        raise TrainError("A stay brings the change of all weights back: set adapter.method to full in the recipe.")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        stage = Path(name)
        copy_code(stage / "code")
        write_start(config, stage / "start")
        config = replace(config, model=replace(config.model, path="start", random_weights=False))
        config = replace(config, data=replace(config.data, train=pack_data(config, stage, say)))
        files = [_copied(Path(path), stage / "evaluation") for path in config.evaluation.files]
        config = replace(
            config,
            evaluation=replace(config.evaluation, files=files, suite=None),
            distill=replace(config.distill, vectors_dir=Path("vectors")),
            output_dir=Path("run"),
            resume="no",
        )
        values = json.dumps(dataclasses.asdict(config), default=str, indent=1)
        (stage / "recipe.yaml").write_text(values + "\n", encoding="utf-8")  # JSON is YAML
        stay = {"minutes": minutes, "evaluation_s": evaluation_s, "piece_bytes": piece_bytes}
        (stage / STAY).write_text(json.dumps(stay) + "\n", encoding="utf-8")
        for wheel in wheels:
            _copied(wheel, stage / "wheels")
        parts = write_parts(stage, out, PART, part_bytes)
    (out / "run.sh").write_text(RUN_SH, encoding="utf-8")
    (out / "run.sh").chmod(0o755)
    total = sum(part.stat().st_size for part in parts)
    say(f"{len(parts)} parts, {total / 1e6:.1f} MB in all, and run.sh in {out}")
    return parts


def copy_code(target: Path) -> None:
    """The packages that a run needs."""
    for package in CODE:
        for path in sorted((PROJECT / package).rglob("*")):
            is_small = path.is_file() and path.stat().st_size <= LARGEST_CODE_BYTES
            if is_small and path.suffix in CODE_FILES and "__pycache__" not in path.parts:
                copy = target / path.relative_to(PROJECT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)


def write_start(config: TrainConfig, target: Path) -> None:
    """The start weights as int8 rows, with tokenizer and settings."""
    source = Path(config.model.path) if config.model.random_weights else find_folder(config.model.path)
    target.mkdir(parents=True)
    for path in source.iterdir():
        is_small = path.suffix in (".json", ".jinja", ".model", ".txt") and "index" not in path.name
        if path.is_file() and (is_small or path.name in (int8.file_names(source) or [])):
            shutil.copyfile(path, target / path.name)
    if int8.file_names(source) is not None:
        return
    if config.model.random_weights:
        from transformers import AutoModelForCausalLM

        torch.manual_seed(config.run.seed)
        model = AutoModelForCausalLM.from_config(load_config(source), dtype=torch.float32)
    else:
        with quiet_transformers():
            model = load_hf_model(source, device=torch.device("cpu"), dtype=torch.float32, quantization="none")
    state = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    int8.write(state, target)


def pack_data(config: TrainConfig, stage: Path, say: Callable[[str], None]) -> list[DataFile]:
    """Each data set as a packed file of its own, and its teacher's vectors; gives the entries of the packed recipe."""
    entries: list[DataFile] = []
    datasets = open_datasets(config.data.train)
    here = Ranks(0, 1, torch.device("cpu"))
    open_teachers(config, datasets, here, say)
    for number, dataset in enumerate(datasets):
        name = f"data/{number:03d}-{dataset.name.split('.')[0]}.jsonl.xz"
        _write_rows(dataset, stage / name)
        teacher = dataset.file.teacher
        if teacher and dataset.kind == "contrastive":
            teacher = f"vectors/{number:03d}"
            shutil.copytree(vectors_folder(config.distill, dataset), stage / teacher)
        entries.append(replace(dataset.file, path=name, limit=None, teacher=teacher))
    return entries


def _write_rows(dataset: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_text(path) as file:
        for index in range(len(dataset)):
            file.write(json.dumps(dataset.rows[index], ensure_ascii=False) + "\n")


def _copied(path: Path, folder: Path) -> str:
    if not path.is_file():
        raise TrainError(f"{path} is not there. A stay has no network: everything must be packed.")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / path.name)
    return f"{folder.name}/{path.name}"
