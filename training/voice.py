"""Lets a model answer a file of requests in its own words, for the generative part of a mixture.

    python -m training.voice --model runs/base --input requests.jsonl --output runs/mixture/self_answers.jsonl

A base that is fine-tuned on other people's answers loses its own way of talking; its own answers keep it (SDFT, arXiv
2402.13669). Rows of the input: {"turns": ["request"], "next": "follow-up, or missing", "kind": "…"}. The model writes
in its own chat template, batch after batch. An answer is kept if it ended by itself, does not repeat itself and names
nobody who is `forbidden`; a row with `next` gets a second turn. Rows of the output: {"text": [user, assistant, …]}.

The same seed and batch size give the same answers. A stopped command goes on where its output ends with --resume true.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from grit_app.doors import one_sentence
from grit_app.gritlm.load.loading import load_tokenizer, quiet_transformers
from grit_app.gritlm.load.sources import find_folder
from training.config import TrainError, require
from training.data.formats import JsonLines, open_text

REPEATED_WORDS = 4
"""Runs of so many words tell whether an answer repeats itself."""

FEWEST_RUNS = 12
"""Shorter answers may repeat a run."""


@dataclass(frozen=True, kw_only=True)
class VoiceConfig:
    """Who answers what, and how."""

    model: str
    """Folder or hub name of the base, whose tokenizer has a chat template (or `template`)."""

    input: Path
    output: Path
    template: str = ""
    """A Jinja chat template for a tokenizer without one."""

    system: str = ""
    """The system message; empty: the template's own, or none."""

    max_new_tokens: int = 224
    temperature: float = 0.3
    """0: the most likely token always."""

    top_p: float = 0.9
    repetition_penalty: float = 1.03
    batch_size: int = 16
    limit: int | None = None
    forbidden: list[str] = field(default_factory=list)
    """Names that a kept answer must not hold, in any case: the model's own and its maker's."""

    resume: bool = False
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        require(self.batch_size > 0 and self.max_new_tokens > 0, "batch_size and max_new_tokens must be above 0.")
        require(self.temperature >= 0 and 0 < self.top_p <= 1, "temperature must not be negative; top_p in (0, 1].")


class Voice:
    """A model that answers in its own chat template."""

    def __init__(self, config: VoiceConfig) -> None:
        self.config = config
        folder = Path(config.model) if Path(config.model).is_dir() else find_folder(config.model)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder)
        if config.template:
            self.tokenizer.chat_template = config.template
        if not self.tokenizer.chat_template:
            raise TrainError(f"The tokenizer of {config.model} has no chat template. Give one with --template.")
        on_gpu = torch.cuda.is_available() if config.device == "auto" else config.device.startswith("cuda")
        self.device = torch.device("cuda" if on_gpu else "cpu")
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.bfloat16 if on_gpu else torch.float32, local_files_only=True
            )
        self.model: PreTrainedModel = loaded.to(self.device).eval()

    def prompt(self, turns: Sequence[str]) -> list[int]:
        """Ids of a chat whose last turn is the user's, with the opened answer."""
        roles = ("user", "assistant")
        chat = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
        if self.config.system:
            chat.insert(0, {"role": "system", "content": self.config.system})
        text: Any = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @torch.inference_mode()
    def answers(self, chats: Sequence[Sequence[str]], seed: int) -> list[str | None]:
        """One answer a chat; None where it did not end within `max_new_tokens`."""
        prompts = [self.prompt(turns) for turns in chats]
        width, end = max(map(len, prompts)), int(self.tokenizer.eos_token_id)
        ids = torch.full((len(prompts), width), end)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        config = self.config
        sampling = (
            {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p}
            if config.temperature
            else {"do_sample": False, "temperature": None, "top_p": None}
        )
        generate: Any = self.model.generate
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            written = generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                max_new_tokens=config.max_new_tokens,
                repetition_penalty=config.repetition_penalty,
                eos_token_id=end,
                pad_token_id=end,
                **sampling,
            )
        found: list[str | None] = []
        for row in written[:, width:].tolist():
            ended = end in row
            text: Any = self.tokenizer.decode(row[: row.index(end)] if ended else row, skip_special_tokens=True)
            found.append(text.strip() if ended else None)
        return found


def is_good(answer: str | None, forbidden: Sequence[str] = ()) -> bool:
    """Whether an answer ended, says something, does not repeat itself, and names nobody who is forbidden."""
    if not answer or not answer.strip():
        return False
    if any(name.lower() in answer.lower() for name in forbidden):
        return False
    words = answer.split()
    runs = [tuple(words[i : i + REPEATED_WORDS]) for i in range(len(words) - REPEATED_WORDS + 1)]
    return len(runs) <= FEWEST_RUNS or len(set(runs)) >= 0.8 * len(runs)


def requests(path: Path, limit: int | None) -> list[dict[str, Any]]:
    """The rows of a file of requests. Raises TrainError naming the line of one that is none."""
    rows = JsonLines(path)
    found = []
    for index in range(len(rows) if limit is None else min(limit, len(rows))):
        row = rows[index]
        turns = row.get("turns")
        if not isinstance(turns, list) or len(turns) % 2 != 1 or not all(isinstance(t, str) and t for t in turns):
            raise TrainError(
                f'{rows.where(index)}: "turns" must be a list of texts, user and assistant alternating, the user last.'
            )
        found.append(row)
    # Requests of one length share a batch, so that little of it is padding.
    return sorted(found, key=lambda row: sum(map(len, row["turns"])))


def answered(voice: Voice, rows: Sequence[dict[str, Any]], first: int = 0) -> Iterator[list[dict[str, Any]]]:
    """The kept chats of one batch of rows after the other, from row `first` on."""
    config = voice.config
    for start in range(first, len(rows), config.batch_size):
        batch = rows[start : start + config.batch_size]
        chats = [list(row["turns"]) for row in batch]
        kept = []
        for row, chat, answer in zip(batch, chats, voice.answers(chats, config.seed + 2 * start), strict=True):
            if is_good(answer, config.forbidden):
                kept.append((row, [*chat, str(answer)]))
        followed = [(row, [*chat, str(row["next"])]) for row, chat in kept if row.get("next")]
        found = [_row(row, chat) for row, chat in kept]
        if followed:
            second = voice.answers([chat for _, chat in followed], config.seed + 2 * start + 1)
            for (row, chat), answer in zip(followed, second, strict=True):
                if is_good(answer, config.forbidden):
                    found.append(_row(row, [*chat, str(answer)]))
        yield found


def _row(row: dict[str, Any], chat: Sequence[str]) -> dict[str, Any]:
    return {"text": list(chat), "source": f"self_{row.get('kind', 'answer')}"}


def speak(config: VoiceConfig, say: Callable[[str], None] = print) -> int:
    """Writes the kept chats; gives their number. Raises GritError with a sentence."""
    rows = requests(config.input, config.limit)
    progress = config.output.with_name(f"{config.output.name}.progress")
    parts = config.output.with_name(f"part-{config.output.name}")
    config.output.parent.mkdir(parents=True, exist_ok=True)
    done, size = 0, 0
    if config.resume and progress.is_file() and parts.is_file():
        done, size = map(int, progress.read_text().split())
    voice = Voice(config)
    with parts.open("ab") as file:
        file.truncate(size)  # what was written after the last note of progress comes again
        for number, found in enumerate(answered(voice, rows, done), 1):
            file.writelines((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in found)
            file.flush()
            answered_rows = min(len(rows), done + number * config.batch_size)
            progress.write_text(f"{answered_rows} {file.tell()}")
            say(f"{answered_rows} of {len(rows)} requests")
    kept = parts.read_text(encoding="utf-8").splitlines(keepends=True)
    with open_text(config.output) as file:
        file.writelines(kept)
    parts.unlink(missing_ok=True)
    progress.unlink(missing_ok=True)
    say(f"{len(kept)} chats from {len(rows)} requests; written to {config.output}")
    return len(kept)


def main(arguments: list[str] | None = None) -> None:
    with one_sentence():
        speak(auto_cli(VoiceConfig, args=arguments, as_positional=False))


if __name__ == "__main__":
    main()
