"""Makes the exported model of a stay from its pieces and the start weights."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

from grit_app.gritlm.load import int8
from grit_app.gritlm.load.loading import load_hf_model, load_tokenizer, quiet_transformers
from training.config import TrainError
from training.export import ExportConfig, export
from training.lease.pack import PART
from training.lease.parts import read_parts
from training.lease.stay import RESULT


def unpack(pieces: Path, lease: Path) -> Path:
    """`pieces/export`, from the pieces and from the start weights in the parts that `lease` holds.

    `pieces/run` is a run's folder with one checkpoint and the log. Raises GritError with a sentence.
    """
    export_dir, run = pieces / "export", pieces / "run"
    if run.exists() or export_dir.exists():
        raise TrainError(f"{pieces} holds a run or an export already. Move them away to unpack again.")
    with tempfile.TemporaryDirectory(dir=pieces) as name:
        result, packed = Path(name) / "result", Path(name) / "packed"
        read_parts(pieces, RESULT, result)
        read_parts(lease, PART, packed)
        checkpoint = Path(name) / "run" / (result / "name.txt").read_text(encoding="utf-8").strip()
        checkpoint.mkdir(parents=True)
        add_change(packed / "start", result, checkpoint)
        load_tokenizer(packed / "start").save_pretrained(checkpoint)
        for file in ("recipe.json", "grit_config.json"):
            shutil.copyfile(result / file, checkpoint / file)
        for file in ("metrics.jsonl", "train.log"):
            if (result / file).is_file():
                shutil.copyfile(result / file, Path(name) / "run" / file)
        (Path(name) / "run").rename(run)
    export(ExportConfig(output_dir=run, export_dir=export_dir))
    return export_dir


def add_change(start: Path, change: Path, target: Path) -> None:
    """Saves start + change as float32 weights in `target`."""
    model = load_hf_model(start, device=torch.device("cpu"), dtype=torch.float32, quantization="none")
    names = int8.file_names(change) or []
    state = int8.lazy_state([change / name for name in names], torch.float32)
    parameters = dict(model.named_parameters())
    if set(state) != set(parameters):
        odd = min(set(state) ^ set(parameters))
        raise TrainError(f"The pieces belong to another start: {odd} is on one side alone. Use their own lease.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.add_(state[name][...])
    if hasattr(model.config, int8.KEY):
        delattr(model.config, int8.KEY)
    with quiet_transformers():
        model.save_pretrained(target)
