"""KTO or DPO on a GRIT model through TRL, with LoRA; the result is a folder that the app loads.

The prompt is the app's own for full prefill (`rag_doc_query`): the ids that TRL reads are compared with those that the
app would send, and a row that differs is left out. Only the causal path is trained: what becomes of the vectors is
measured by `python -m training.paper kto`. The reference model is the same one with its adapters off.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import torch

from grit_app.benchmark.inputs.questions import read_rows
from grit_app.gritlm import GritConfig
from grit_app.gritlm.load.loading import load_hf_model, load_tokenizer
from grit_app.gritlm.load.sources import find_folder
from grit_app.gritlm.prompts import ASSISTANT, DOCUMENT_FIRST_CLOSING, USER, Prompts, rag_turn
from grit_app.rag.strategies import REFERENCE, build_layout
from training.config import AdapterConfig, TrainError, require
from training.prefer.pairs import Preference, preferences
from training.run.adapters import check_adapters_move, lora_config
from training.run.folder import write_model, written_aside

Method = Literal["kto", "dpo"]

TURNS_OF_A_PAIR: Final = {"kto": 2, "dpo": 1}
"""KTO learns from single answers that are wanted or not: a pair is two rows."""


@dataclass(frozen=True, kw_only=True)
class PreferConfig:
    """One run."""

    model: str
    """Folder or hub name of a GRIT model."""

    output_dir: Path
    data: list[Path] = field(default_factory=list)
    """Rag rows of `training.mixture`, or rows of prompt, chosen, rejected; .jsonl, .jsonl.xz."""

    method: Method = "kto"
    pairs: int = 2000
    """Most preferences that are used of the data."""

    prompt_tokens: int = 1024
    """Longer prompts are left out: a cut passage may have lost its answer."""

    epochs: float = 1.0
    batch_size: int = 16
    """Rows in one optimizer step."""

    chunk_size: int = 4
    """Rows in one forward pass; at least 2, because KTO compares each answer with its neighbour's prompt."""

    learning_rate: float = 5e-5
    beta: float = 0.1
    """How dear it is to leave the reference model. Lower: further away."""

    adapter: AdapterConfig = field(default_factory=lambda: AdapterConfig(method="lora", alpha=32, dropout=0.0))
    precision: Literal["bf16", "fp32"] = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.adapter.method == "lora", "adapter.method must be lora: the model without it is the reference.")
        require(2 <= self.chunk_size <= self.batch_size, "chunk_size must lie in 2 … batch_size.")
        require(self.batch_size % self.chunk_size == 0, "batch_size must be a multiple of chunk_size.")


@dataclass(frozen=True)
class Tuned:
    """What a run leaves behind."""

    folder: Path
    steps: int
    pairs: int
    log: list[dict[str, float]]
    """TRL's own, by step: loss, rewards."""


def read_preferences(config: PreferConfig, grit: GritConfig) -> list[Preference]:
    """Of the data files, by the rules of `pairs`. Raises TrainError if there is none."""
    rows = [row for path in config.data for row in read_rows(path)]
    return preferences(rows, grit.refusal_sentence, config.seed)


def tune(config: PreferConfig, drawn: Sequence[Preference] | None = None) -> Tuned:
    """Trains, merges the adapters, and writes the folder `output_dir`. Raises TrainError with a sentence.

    drawn   preferences instead of those of the data files
    """
    trl = _library()
    folder = find_folder(config.model)
    grit, tokenizer = GritConfig.load(folder), load_tokenizer(folder)
    chosen = list(drawn if drawn is not None else read_preferences(config, grit))
    readable = (_row(each, tokenizer, grit, config) for each in chosen)
    rows = list(islice((row for row in readable if row), config.pairs))
    if len(rows) * TURNS_OF_A_PAIR[config.method] < config.chunk_size:
        raise TrainError(
            f"{len(rows)} of {len(chosen)} preferences can be used, too few for a forward of {config.chunk_size} rows. "
            "Give more data, or raise prompt_tokens."
        )
    is_cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if is_cuda else "cpu")
    model = load_hf_model(folder, device=device, dtype=torch.float32, quantization="none")
    with TemporaryDirectory() as scratch:
        trainer = _trainer(trl, config, model, tokenizer, _dataset(rows, config), scratch)
        trainer.train()
    check_adapters_move(trainer.model)
    merged = trainer.model.merge_and_unload().to("cpu")
    merged.__dict__.pop("forward", None)  # TRL's own, for its loss alone
    with written_aside(config.output_dir) as aside:
        write_model(merged, tokenizer, grit, aside, dtype="float32")
    log = [
        {name: float(value) for name, value in entry.items()} for entry in trainer.state.log_history if "loss" in entry
    ]
    return Tuned(config.output_dir, int(trainer.state.global_step), len(rows), log)


def _row(each: Preference, tokenizer: Any, grit: GritConfig, config: PreferConfig) -> dict[str, str] | None:
    """The preference as texts, or None where its ids would not be those that the app sends."""
    prompts = Prompts(tokenizer)
    if each.passages:
        parts = [*each.passages, each.question, DOCUMENT_FIRST_CLOSING]
        turn = rag_turn(parts, answer_prefix=grit.answer_prefix, continued=False)
        ids = build_layout(REFERENCE, prompts, grit, each.question, each.passages).tail
    else:
        turn = f"{USER}{each.question}\n{ASSISTANT}"
        ids = prompts.chat([{"role": "user", "content": each.question}]).ids
    opens = tokenizer("a")["input_ids"][:1] == [prompts.bos_id]
    prompt = turn if opens else f"{tokenizer.decode([prompts.bos_id])}{turn}"
    if len(ids) > config.prompt_tokens or tokenizer(prompt)["input_ids"] != list(ids):
        return None
    space = " " if grit.answer_prefix and each.passages else ""
    return {"prompt": prompt, "chosen": space + each.chosen.strip(), "rejected": space + each.rejected.strip()}


def _dataset(rows: Sequence[dict[str, str]], config: PreferConfig) -> Any:
    from datasets import Dataset

    if config.method == "dpo":
        return Dataset.from_list(list(rows))
    single = [
        {"prompt": row["prompt"], "completion": row[name], "label": name == "chosen"}
        for row in rows
        for name in ("chosen", "rejected")
    ]
    random.Random(config.seed).shuffle(single)  # TRL takes them in the order given
    whole = len(single) - len(single) % config.chunk_size  # a last forward of one row has no neighbour
    return Dataset.from_list(single[:whole])


def _trainer(trl: Any, config: PreferConfig, model: Any, tokenizer: Any, dataset: Any, scratch: str) -> Any:
    settings, trainer = {
        "kto": (trl.KTOConfig, trl.KTOTrainer),
        "dpo": (trl.DPOConfig, trl.DPOTrainer),
    }[config.method]
    arguments = settings(
        output_dir=scratch,
        per_device_train_batch_size=config.chunk_size,
        gradient_accumulation_steps=config.batch_size // config.chunk_size,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        beta=config.beta,
        max_length=None,
        bf16=config.precision == "bf16",
        use_cpu=model.device.type == "cpu",
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
        seed=config.seed,
        dataloader_pin_memory=False,
    )
    with warnings.catch_warnings():
        # peft 0.21 and TRL 1.16 ask transformers 5.23 by names that are on their way out.
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
        return trainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora_config(model, config.adapter),
        )


def _library() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own imports' remarks
            import trl
    except ImportError as error:
        raise TrainError("Preference tuning needs TRL: pip install -r requirements-dev.txt") from error
    return trl
