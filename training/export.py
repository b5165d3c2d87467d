"""From a run to a folder that the app loads, or plain transformers and sentence-transformers.

    python -m training.export --output_dir runs/toy --export_dir runs/toy/export
    python app.py --model runs/toy/export
    python -m training.export --model assets/gritlm-135m --export_dir plain            # bfloat16, for other programs

Takes the best checkpoint if the run kept one, else the newest; merges adapters onto the unquantised base model in
float32; rounds; writes weights, tokenizer, grit_config.json and a model card beside the target. The result is loaded
and compared with the float32 model; only then it takes the target's place, and the drift is printed.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from safetensors.torch import load_file
from transformers import PreTrainedModel

from grit_app.doors import one_sentence
from grit_app.gritlm import GritConfig, GritLM
from grit_app.gritlm.load.loading import load_hf_model, load_tokenizer
from grit_app.gritlm.load.sources import find_folder
from training.config import AdapterConfig, TrainError
from training.run.adapters import add_adapters
from training.run.checkpoint import checkpoints
from training.run.drift import Drift, Reading
from training.run.folder import write_model, written_aside

LEAST_COSINE = 0.97
"""Below this, rounding does not explain that the written model gives other vectors."""


class ExportError(TrainError):
    """There is nothing to export, or the exported model does not give the same vectors."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What is exported, and how."""

    export_dir: Path
    """A new or empty folder."""

    output_dir: Path | None = None
    """The run's folder."""

    model: Path | None = None
    """Instead of a run: a model's folder or hub name, to be written in another precision."""

    checkpoint: str = "auto"
    """auto (best, else newest), best, newest, or a checkpoint's name."""

    dtype: Literal["bfloat16", "float32", "float16", "int8"] = "bfloat16"
    """Precision of the exported weights. bfloat16 halves the file and is what GPUs compute in; int8 is half of that
    again, in files below 48 MB, and only this program reads it."""

    max_shard_size: str = "5GB"
    """Size of one file, but for int8."""

    overwrite: bool = False
    """Replaces what is in export_dir, once the new folder is whole and checked."""

    def __post_init__(self) -> None:
        if (self.output_dir is None) == (self.model is None):
            raise ExportError("Name either a run by --output_dir, or a model by --model.")


def export(config: ExportConfig) -> Drift:
    """Writes the folder; gives how far it is from the float32 model. Raises ExportError with a sentence.

    After an error export_dir holds what it held before.
    """
    if config.export_dir.exists() and any(config.export_dir.iterdir()) and not config.overwrite:
        raise ExportError(f"{config.export_dir} is not empty. Choose another folder, or use --overwrite true.")
    model, folder, recipe = _source(config)
    grit, tokenizer = GritConfig.load(folder), load_tokenizer(folder)
    card = model_card(folder, recipe, config, model) if recipe else None
    before = Reading.of(GritLM(model, tokenizer, grit))
    with written_aside(config.export_dir) as aside:
        write_model(model, tokenizer, grit, aside, dtype=config.dtype, max_shard_size=config.max_shard_size)
        if card is not None:
            (aside / "README.md").write_text(card, encoding="utf-8")
        elif (folder / "README.md").is_file():
            shutil.copy(folder / "README.md", aside)
        drift = before.against(GritLM.from_pretrained(aside, dtype="float32"))
        if drift.cosine < LEAST_COSINE:
            raise ExportError(
                f"The written model gives other vectors than the checkpoint (cosine {drift.cosine:.3f}), so it was not "
                "kept. Export it with --dtype float32; if that differs too, the checkpoint is damaged."
            )
    return drift


def _source(config: ExportConfig) -> tuple[PreTrainedModel, Path, dict[str, Any] | None]:
    """The float32 model, the folder that describes it, and the recipe if it comes from a run."""
    if config.model is not None:
        folder = find_folder(config.model)
        return load_hf_model(folder, device=torch.device("cpu"), dtype=torch.float32, quantization="none"), folder, None
    assert config.output_dir is not None
    folder = chosen_checkpoint(config.output_dir, config.checkpoint)
    try:
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{folder} has no readable recipe.json, so it is not a whole checkpoint ({error})."
        ) from error
    return load_merged(folder, recipe["config"]), folder, recipe


def chosen_checkpoint(output_dir: Path, which: str) -> Path:
    """The folder of the checkpoint that is meant."""
    found = checkpoints(output_dir)
    best = output_dir / "best"
    if which in ("auto", "best") and best.is_dir():
        return best
    if which in ("auto", "newest") and found:
        return found[-1]
    if (output_dir / which / "recipe.json").is_file():
        return output_dir / which
    names = [folder.name for folder in found] + (["best"] if best.is_dir() else [])
    raise ExportError(f"{output_dir} holds no checkpoint {which!r}. It holds {', '.join(names) or 'none at all'}.")


def load_merged(folder: Path, recipe: dict[str, Any]) -> PreTrainedModel:
    """The trained model in float32, adapters merged into it."""
    cpu = torch.device("cpu")
    adapter = AdapterConfig(**recipe["adapter"])
    if adapter.method == "full":
        return load_hf_model(folder, device=cpu, dtype=torch.float32, quantization="none")
    # QLoRA trained beside 4-bit weights; its adapters are merged into the weights that those were made from.
    base = load_hf_model(
        find_folder(recipe["model"]["path"]),
        device=cpu,
        dtype=torch.float32,
        quantization="none",
        separate_experts=adapter.method == "qlora",
    )
    plain = AdapterConfig(**{**recipe["adapter"], "method": "lora"})
    adapted: Any = add_adapters(base, plain, seed=0)
    weights = {
        name.removeprefix("language_model."): value
        for name, value in load_file(folder / "adapters.safetensors").items()
    }
    result = adapted.load_state_dict(weights, strict=False)
    if result.unexpected_keys or any("lora_" in name for name in result.missing_keys):
        raise ExportError(
            f"The adapters in {folder} do not fit {recipe['model']['path']}. Use the base model of the run."
        )
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def model_card(folder: Path, recipe: dict[str, Any], config: ExportConfig, model: PreTrainedModel) -> str:
    """README.md of the exported model: what it is, from what, with which settings and scores."""
    values = recipe["config"]
    files = "\n".join(f"- {Path(file['path']).name}" for file in values["data"]["train"])
    steps, minutes = values["run"]["steps"], values["run"].get("minutes")
    length = f"{steps} steps" if steps else f"a run of {minutes} minutes"
    assert config.output_dir is not None
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in last_scores(config.output_dir).items())
    table = f"\n## Scores at the end of the run\n\n| metric | value |\n|---|---|\n{scores}\n" if scores else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [gritlm, sentence-embeddings, text-generation]
---
# {config.export_dir.name}

A {model.config.model_type} model with {model.num_parameters() / 1e6:.1f} M parameters, fine-tuned with generative
representational instruction tuning (GRIT, arXiv 2402.09906): it embeds text (bidirectional attention,
{values["model"]["pooling"]} pooling) and writes text (causal attention). `grit_config.json` says how it wants to be
used.

    from grit_app.gritlm import GritLM
    model = GritLM.from_pretrained("{config.export_dir.name}")

Started from `{Path(values["model"]["path"]).name}`, {folder.name} of {length}, mode
{values["mode"]}, method {values["adapter"]["method"]}, peak learning rate {values["optimizer"]["learning_rate"]}.

## Data

{files}
{table}"""


def last_scores(output_dir: Path) -> dict[str, float]:
    """The last evaluation that the run wrote."""
    scores: dict[str, float] = {}
    path = output_dir / "metrics.jsonl"
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            found = {name.removeprefix("eval/"): v for name, v in values.items() if name.startswith("eval/")}
            scores = found or scores
    return scores


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_class_arguments(ExportConfig)
    parser.add_argument("--config", default=None, help="Accepted for symmetry: a checkpoint knows its own recipe.")
    parsed = parser.parse_args(arguments)
    values = {name: value for name, value in vars(parsed).items() if name != "config"}
    with one_sentence():
        drift = export(ExportConfig(**values))
        print(f"exported to {values['export_dir']}; against float32: {drift}")


if __name__ == "__main__":
    main()
