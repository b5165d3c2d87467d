"""Checkpoints: whole or not there, loadable by the app as they are, and enough to go on bit for bit.

    checkpoint-000200/    full fine-tuning: a model folder (config.json, model.safetensors in float32, tokenizer,
                          grit_config.json); adapters: adapters.safetensors beside adapter_config.json
        teacher_head.safetensors   only with distill.cosine_weight; export leaves it out
        training_state.pt          optimizer, step, best value so far, random states of every process
        recipe.json                the resolved settings, and the data's fingerprint
    best/                 a copy of the checkpoint with the best value of evaluation.best_metric, without training_state
    earlier-1/            all of that from before `--resume weights`, whose steps count from 0 again

Each is written under a temporary name and renamed; older ones go afterwards.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from grit_app.gritlm.load.loading import load_hf_model, quiet_transformers
from training.config import TrainConfig, TrainError
from training.step.distributed import Ranks

if TYPE_CHECKING:
    from training.run.setup import Trainer

PREFIX = "checkpoint-"
EARLIER = "earlier-"
LM_PREFIX = "language_model."
TEACHER_HEAD = "teacher_head.safetensors"


class CheckpointError(TrainError):
    """A checkpoint is damaged, or belongs to another run."""


def checkpoints(output_dir: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in output_dir.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit())


def newest_checkpoint(output_dir: Path, ranks: Ranks, *, with_earlier: bool = False) -> Path | None:
    """What a run goes on from; None if there is nothing. Every process must call this.

    with_earlier   take one from before a new schedule if that has not saved any yet

    Raises CheckpointError if processes see different ones: some would go on and others start, each with its own step.
    """
    found = checkpoints(output_dir)
    if with_earlier:
        found = [p for folder in earlier_schedules(output_dir) for p in checkpoints(folder)] + found
    step = int(found[-1].name.removeprefix(PREFIX)) if found else -1
    seen = ranks.sizes(step)
    if len(set(seen)) > 1:
        raise CheckpointError(
            f"The processes see different checkpoints in {output_dir} (steps {seen}; -1: none). Put output_dir on "
            "storage that all hosts share."
        )
    return found[-1] if found else None


def earlier_schedules(output_dir: Path) -> list[Path]:
    """Folders of schedules that were followed by another, oldest first."""
    found = [p for p in output_dir.glob(f"{EARLIER}*") if p.name.removeprefix(EARLIER).isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix(EARLIER)))


def set_aside(output_dir: Path) -> None:
    """Moves what a schedule left into `earlier-<n>`.

    Beside them the next schedule's checkpoints, which count from 0, would be the oldest: the first to be pruned, and
    the last to be resumed or exported.
    """
    names = [path.name for path in checkpoints(output_dir)]
    if not names:
        return
    number = 1 + max((int(p.name.removeprefix(EARLIER)) for p in earlier_schedules(output_dir)), default=0)
    folder = output_dir / f"{EARLIER}{number}"
    folder.mkdir()
    for name in ["best", "metrics.jsonl", "tensorboard", *names]:
        if (output_dir / name).exists():
            (output_dir / name).rename(folder / name)


def save_checkpoint(
    trainer: Trainer, step: int, best: float | None, fingerprint: str, *, is_best: bool, seconds: float = 0.0
) -> Path:
    """Writes `checkpoint-<step>`; every process must call this. Prunes older ones; refreshes `best` if `is_best`.

    seconds   how much of run.minutes is spent

    Raises CheckpointError on every process if it cannot be written; the older ones stay.
    """
    output_dir = trainer.config.output_dir
    folder = output_dir / f"{PREFIX}{step:06d}"
    options = StateDictOptions(full_state_dict=True, cpu_offload=trainer.is_sharded)
    # Collective: every process takes part, only the first gets and writes the result.
    weights: dict[str, Any] = dict(
        get_model_state_dict(trainer.core, options=options) if trainer.is_sharded else trainer.core.state_dict()
    )
    optimizer = get_optimizer_state_dict(trainer.core, trainer.optimizer.optimizer, options=options)
    randoms = _gathered_randoms()
    failure = ""
    if trainer.ranks.is_main:
        state = {"step": step, "best": best, "seconds": seconds, "optimizer": optimizer, "random": randoms}
        try:
            _write_aside(trainer, folder, weights, state, fingerprint)
            if is_best:
                _copy_best(folder, output_dir)
            for old in checkpoints(output_dir)[: -trainer.config.run.keep]:
                shutil.rmtree(old)
        except (OSError, SafetensorError) as error:
            failure = (
                f"{folder} could not be written ({error}). Make room there; --resume auto goes on from the last one."
            )
    # Alone, the others would wait for the first one.
    if failure := trainer.ranks.shared(failure):
        raise CheckpointError(failure)
    return folder


def _write_aside(
    trainer: Trainer, folder: Path, weights: dict[str, Any], state: dict[str, Any], fingerprint: str
) -> None:
    """Writes the checkpoint under a temporary name and renames it; after an error nothing of it is left."""
    temporary = folder.with_name(f"tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write_weights(trainer, weights, temporary)
        torch.save(state, temporary / "training_state.pt")
        recipe = {"fingerprint": fingerprint, "config": recipe_values(trainer.config)}
        (temporary / "recipe.json").write_text(json.dumps(recipe, indent=2, default=str) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_weights(trainer: Trainer, weights: dict[str, Tensor], folder: Path) -> None:
    """Model (or adapters), tokenizer and grit_config.json."""
    core = trainer.core
    if trainer.config.adapter.method == "full":
        own = {name.removeprefix(LM_PREFIX): value for name, value in weights.items() if name.startswith(LM_PREFIX)}
        with quiet_transformers():
            core.hf_model.save_pretrained(folder, state_dict=own if trainer.is_sharded else None)
    else:
        adapters = {name: value.contiguous().clone() for name, value in weights.items() if "lora_" in name}
        save_file(adapters, folder / "adapters.safetensors")
        peft_model: Any = core.language_model
        peft_model.peft_config[peft_model.active_adapter].save_pretrained(str(folder))
    head = {name: value.contiguous() for name, value in weights.items() if name.startswith("teacher_head.")}
    if head:
        save_file(head, folder / TEACHER_HEAD)
    trainer.tokenizer.save_pretrained(folder)
    trainer.grit.save(folder)


def load_weights(trainer: Trainer, folder: Path) -> None:
    """Takes over the weights of a checkpoint, whatever number of processes wrote it."""
    core = trainer.core
    try:
        if trainer.config.adapter.method == "full":
            saved = load_hf_model(folder, device=torch.device("cpu"), dtype=torch.float32, quantization="none")
            weights = {LM_PREFIX + name: value for name, value in saved.state_dict().items()}
        else:
            weights = load_file(folder / "adapters.safetensors")
        if (folder / TEACHER_HEAD).is_file():
            weights |= load_file(folder / TEACHER_HEAD)
    except (OSError, FileNotFoundError) as error:
        raise CheckpointError(f"{folder} holds no weights of this kind of run ({error}).") from error
    if trainer.is_sharded:
        result = set_model_state_dict(core, weights, options=StateDictOptions(full_state_dict=True, strict=False))
    else:
        result = core.load_state_dict(weights, strict=False)
    trained = {name for name, parameter in core.named_parameters() if parameter.requires_grad}
    missing = sorted(trained & set(result.missing_keys) - _tied(core, weights))
    if missing or result.unexpected_keys:
        raise CheckpointError(
            f"{folder} does not fit this recipe: {len(missing)} weights are missing and "
            f"{len(result.unexpected_keys)} are unknown ({(missing + result.unexpected_keys)[0]}). Use the recipe that "
            "made it."
        )


def load_training_state(trainer: Trainer, folder: Path, fingerprint: str) -> tuple[int, float | None, float]:
    """Restores optimizer and random states; gives (step, best value, seconds that are spent of run.minutes).

    Raises CheckpointError if the run has other data or settings than the checkpoint's.
    """
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    if recipe["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{folder} was trained on other data files than data.train names now, so its place in them means nothing. "
            "Restore the files, or use --resume weights."
        )
    _check_same(recipe["config"], recipe_values(trainer.config), folder)
    state = _read_state(folder / "training_state.pt")
    # Not strict: what never got a gradient (an untied head when only embedding is trained) has no state to load.
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_optimizer_state_dict(
        trainer.core, trainer.optimizer.optimizer, optim_state_dict=state["optimizer"], options=options
    )
    _forget_untrained(trainer, state["optimizer"]["state"])
    randoms = state["random"]
    if len(randoms) == trainer.ranks.size:
        _set_random(randoms[trainer.ranks.rank])
    return int(state["step"]), state["best"], float(state.get("seconds", 0.0))


def _read_state(path: Path) -> dict[str, Any]:
    """Tensors, numbers and names alone: a run folder from somebody else must not bring code with it."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({str(error).splitlines()[0]}). Take another checkpoint, or use --resume weights."
        ) from error
    return state


def _forget_untrained(trainer: Trainer, saved: dict[str, Any]) -> None:
    """Drops optimizer states that the checkpoint has not: PyTorch makes one for every parameter before it loads."""
    named = trainer.core.named_parameters(remove_duplicate=False)
    known = {id(parameter) for name, parameter in named if name in saved}
    states = trainer.optimizer.optimizer.state
    for parameter in [p for p in states if id(p) not in known]:
        del states[parameter]


FIXED = ("model", "data", "adapter", "contrastive", "generative", "rag", "distill", "optimizer", "mode")
"""Sections that decide what a step does: a run may only go on with the same ones."""


def _check_same(saved: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    for section in FIXED:
        old, new = saved.get(section), json.loads(json.dumps(now[section], default=str))
        if old != new:
            name = next((k for k in new if old.get(k) != new[k]), "") if isinstance(new, dict) and old else ""
            raise CheckpointError(
                f"{folder} was made with another {section}{'.' + name if name else ''}. Go on with its own settings, "
                "or start from its weights with --resume weights."
            )
    for name in ("steps", "minutes", "seed"):
        if saved["run"].get(name) != now["run"][name]:
            raise CheckpointError(
                f"{folder} belongs to a run with run.{name} {saved['run'].get(name)}, not {now['run'][name]}: order "
                "and learning rate depend on it. Use --resume weights to prolong a run."
            )


def recipe_values(config: TrainConfig) -> dict[str, Any]:
    """The settings as plain values."""
    return dataclasses.asdict(config)


def random_state() -> dict[str, Any]:
    """Generators of this process."""
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _gathered_randoms() -> list[dict[str, Any]]:
    mine = random_state()
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    everybody: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, mine)
    return everybody


def _tied(core: torch.nn.Module, weights: dict[str, Tensor]) -> set[str]:
    """Names that share their tensor with a name that was loaded."""
    by_id: dict[int, list[str]] = {}
    for name, parameter in core.named_parameters(remove_duplicate=False):
        by_id.setdefault(id(parameter), []).append(name)
    return {name for names in by_id.values() if any(n in weights for n in names) for name in names}


def _copy_best(folder: Path, output_dir: Path) -> None:
    temporary, best = output_dir / "tmp-best", output_dir / "best"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(folder, temporary, ignore=shutil.ignore_patterns("training_state.pt"))
    shutil.rmtree(best, ignore_errors=True)
    temporary.rename(best)
