"""From a run to a folder that the app, and plain transformers, load.

    python -m training.export --output_dir runs/toy --export_dir runs/toy/export
    python app.py --model runs/toy/export

Takes the best checkpoint if the run kept one, else the newest; merges adapters onto the unquantised base model in
float32; rounds to bfloat16; writes tokenizer, grit_config.json and a model card; loads the result and compares vectors.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import load_file
from transformers import PreTrainedModel

from grit_app.errors import GritError
from grit_app.gritlm import GritConfig, GritLM
from grit_app.gritlm.load.loading import load_hf_model, load_tokenizer, quiet_transformers
from grit_app.gritlm.load.sources import find_folder
from training.config import AdapterConfig, TrainError
from training.run.adapters import add_adapters
from training.run.checkpoint import checkpoints

CHAT_TEMPLATE = "".join(
    (
        "{{ bos_token }}{% for message in messages %}",
        "{% if message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}",
        "{% elif message['role'] == 'assistant' %}",
        "{{ '<|assistant|>\n' + message['content'].strip() + eos_token }}",
        "{% if not loop.last %}{{ '\n' }}{% endif %}{% endif %}{% endfor %}",
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    )
)
"""The published layout (Tülu 2 with BOS), for those who use plain transformers."""

PROBES = ("A short text.", "Which city lies at the mouth of the river?", "Bees make honey from nectar.")


class ExportError(TrainError):
    """There is nothing to export, or the exported model does not give the same vectors."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What is exported, and how."""

    output_dir: Path
    """The run's folder."""

    export_dir: Path
    """A new or empty folder."""

    checkpoint: str = "auto"
    """auto (best, else newest), best, newest, or a checkpoint's name."""

    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    """Precision of the exported weights. bfloat16 halves the file and is what GPUs compute in."""

    max_shard_size: str = "5GB"
    """Size of one file."""

    overwrite: bool = False


def export(config: ExportConfig) -> Path:
    """Writes the folder; gives its path. Raises ExportError with a sentence."""
    folder = chosen_checkpoint(config.output_dir, config.checkpoint)
    if config.export_dir.exists() and any(config.export_dir.iterdir()):
        if not config.overwrite:
            raise ExportError(f"{config.export_dir} is not empty. Choose another folder, or use --overwrite true.")
        shutil.rmtree(config.export_dir)
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    model = load_merged(folder, recipe["config"])
    grit = GritConfig.load(folder)
    tokenizer = load_tokenizer(folder)
    before = _vectors(model, tokenizer, grit)
    model = model.to(getattr(torch, config.dtype))
    temporary = config.export_dir.with_name(f"tmp-{config.export_dir.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with quiet_transformers():
        model.save_pretrained(temporary, max_shard_size=config.max_shard_size)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(temporary)
    grit.save(temporary)
    if (folder / "projection.safetensors").is_file():
        shutil.copy2(folder / "projection.safetensors", temporary)
    (temporary / "README.md").write_text(model_card(folder, recipe, config, model), encoding="utf-8")
    shutil.rmtree(config.export_dir, ignore_errors=True)
    temporary.rename(config.export_dir)
    _check_same_vectors(before, config.export_dir)
    return config.export_dir


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
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in last_scores(config.output_dir).items())
    table = f"\n## Scores at the end of the run\n\n| metric | value |\n|---|---|\n{scores}\n" if scores else ""
    projection = (
        "\nThe run trained a projection behind the pooling (`projection.safetensors`); loaders that do not know it "
        "give the unprojected vectors.\n"
        if (folder / "projection.safetensors").is_file()
        else ""
    )
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

Started from `{Path(values["model"]["path"]).name}`, {folder.name} of {values["run"]["steps"]} steps, mode
{values["mode"]}, method {values["adapter"]["method"]}, peak learning rate {values["optimizer"]["learning_rate"]}.
{projection}
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


def _vectors(model: PreTrainedModel, tokenizer: Any, grit: GritConfig) -> np.ndarray:
    return GritLM(model, tokenizer, grit).encode(list(PROBES))


def _check_same_vectors(before: np.ndarray, folder: Path) -> None:
    """Loads the folder as the app does; its vectors must be those from before it was written, up to rounding."""
    after = GritLM.from_pretrained(folder, dtype="float32").encode(list(PROBES))
    similarity = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    if float(similarity.min()) < 0.99:
        raise ExportError(
            f"The model in {folder} gives other vectors than the checkpoint (cosine {similarity.min():.3f}). Export it "
            "with --dtype float32; if that differs too, the files are damaged."
        )


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_class_arguments(ExportConfig)
    parser.add_argument("--config", default=None, help="Accepted for symmetry: a checkpoint knows its own recipe.")
    parsed = parser.parse_args(arguments)
    values = {name: value for name, value in vars(parsed).items() if name != "config"}
    try:
        print(f"exported to {export(ExportConfig(**values))}")
    except GritError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
