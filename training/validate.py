"""Reads every line of a recipe's data and says what a run would meet.

    python -m training.validate --config training/recipes/toy.yaml

For each file: rows, tokens (median, 95th percentile, longest), how many texts are cut, which lines cannot be used and
why, duplicates, and texts that stand in a held-out file (evaluation.files) too. Exit status 1 if a line is not of its
file's form, else 0.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli

from grit_app.doors import one_sentence
from grit_app.gritlm.errors import InputError
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.load.loading import load_tokenizer
from grit_app.gritlm.load.sources import find_folder
from grit_app.gritlm.prompts import Prompts
from training.config import DataConfig, DataFile, RagConfig, TrainConfig
from training.data.batches import generative_item
from training.data.formats import (
    ContrastiveSample,
    DataError,
    Dataset,
    GenerativeSample,
    JsonLines,
    RagSample,
    Sample,
    open_datasets,
    text_hash,
)
from training.data.rag_layouts import RagItem, lay_out

SHOWN_LINES = 5


@dataclass
class FileReport:
    """What one file holds."""

    name: str
    kind: str
    rows: int
    lengths: list[int] = field(default_factory=list)
    """Tokens of each text that is embedded or learnt from."""
    truncated: int = 0
    malformed: list[str] = field(default_factory=list)
    """Sentences with file and line: a run stops at these."""
    dropped: list[str] = field(default_factory=list)
    """Sentences with file and line: a run replaces these by the next row."""
    duplicates: int = 0
    leaked: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The report for people."""
        sizes = np.array(self.lengths or [0])
        yield (
            f"{self.name} ({self.kind}): {self.rows} rows; tokens median {int(np.median(sizes))}, "
            f"95 % below {int(np.quantile(sizes, 0.95))}, longest {int(sizes.max())}; {self.truncated} texts cut, "
            f"{len(self.malformed)} malformed, {len(self.dropped)} dropped, {self.duplicates} duplicates, "
            f"{len(self.leaked)} also held out"
        )
        for sentences in (self.malformed, self.dropped, self.leaked):
            yield from (f"  {sentence}" for sentence in sentences[:SHOWN_LINES])
            if len(sentences) > SHOWN_LINES:
                yield f"  … and {len(sentences) - SHOWN_LINES} more"


class Validator:
    """Checks rows as a run would read them."""

    def __init__(self, prompts: Prompts, grit: GritConfig, data: DataConfig, rag: RagConfig) -> None:
        self._prompts, self._grit, self._data = prompts, grit, data
        self._rag_config = replace(rag, min_documents=rag.max_documents)

    def check(self, dataset: Dataset, held_out: dict[int, str]) -> FileReport:
        """`held_out`: hash → where a held-out text stands."""
        report = FileReport(dataset.name, dataset.kind, len(dataset))
        seen: Counter[int] = Counter()
        for index in range(len(dataset)):
            where = dataset.rows.where(index)
            try:
                sample = dataset[index]
            except DataError as error:
                report.malformed.append(str(error))
                continue
            reason = self._measure(sample, report)
            if reason:
                report.dropped.append(f"{where}: {reason}")
            key = text_hash(repr(sample))
            report.duplicates += seen[key] > 0
            seen[key] += 1
            leaks = [held_out[h] for h in map(text_hash, asked_texts(sample)) if h in held_out]
            if leaks:
                report.leaked.append(f"{where} is also in {leaks[0]}")
        return report

    def _measure(self, sample: Sample, report: FileReport) -> str:
        """Adds lengths and cuts to the report; gives the reason why the row cannot be used, or nothing."""
        if isinstance(sample, ContrastiveSample):
            return self._contrastive(sample, report)
        if isinstance(sample, GenerativeSample):
            return self._generative(sample, report)
        return self._rag(sample, report)

    def _contrastive(self, sample: ContrastiveSample, report: FileReport) -> str:
        limits = [(sample.query, self._data.query_max_length, "query")]
        limits += [(text, self._data.passage_max_length, "positive") for text in sample.positives]
        limits += [(text, self._data.passage_max_length, "negative") for text in sample.negatives]
        reasons: dict[str, str] = {}
        usable: set[str] = set()
        for (instruction, text), limit, role in limits:
            try:
                prompt = self._prompts.embed(text, instruction)
            except InputError as error:
                reasons[role] = f"the {role} cannot be used: {error}"
                continue
            if prompt.header_length >= limit:
                reasons[role] = (
                    f"the instruction takes {prompt.header_length} tokens, and {limit} is the {role}'s limit."
                )
                continue
            report.lengths.append(len(prompt.ids))
            report.truncated += len(prompt.ids) > limit
            usable.add(role)
        # Without one of its negatives a row is still used.
        return next((reasons[role] for role in ("query", "positive") if role not in usable), "")

    def _generative(self, sample: GenerativeSample, report: FileReport) -> str:
        limit = self._data.generative_max_length
        whole = generative_item(sample, self._prompts, 10**9, 0)
        if whole is None:
            return "there is nothing to learn in it."
        report.lengths.append(len(whole))
        report.truncated += len(whole) > limit
        if generative_item(sample, self._prompts, limit, 0) is None:
            return f"the first {limit} tokens hold nothing of an answer."
        return ""

    def _rag(self, sample: RagSample, report: FileReport) -> str:
        limit, most = self._data.generative_max_length, self._rag_config.document_max_length
        report.truncated += sum(self._prompts.count(text) > most for text in sample.passages)
        whole = self._laid_out(sample, len(report.lengths), 10**9)
        assert whole is not None
        report.lengths.append(whole.layout.length)
        if whole.layout.length <= limit or self._laid_out(sample, len(report.lengths) - 1, limit) is not None:
            return ""
        return f"without its distractors it still takes more than {limit} tokens."

    def _laid_out(self, sample: RagSample, seed: int, limit: int) -> RagItem | None:
        """As a run would lay it out in one of its draws, with as many passages as it may show."""
        return lay_out(sample, random.Random(seed), self._prompts, self._grit, self._rag_config, limit)


def asked_texts(sample: Sample) -> list[str]:
    """The texts by which a row is recognised in another file."""
    if isinstance(sample, ContrastiveSample):
        return [sample.query.text]
    if isinstance(sample, GenerativeSample):
        return [sample.turns if isinstance(sample.turns, str) else "\n".join(sample.turns[:2])]
    return [sample.question]


def held_out_hashes(files: Sequence[str]) -> dict[int, str]:
    """Hash of each held-out row's own text (of both texts of a similarity pair) → where it stands."""
    hashes: dict[int, str] = {}
    for path in files:
        if Path(path).is_file() and "sentence1" in (rows := JsonLines(Path(path)))[0]:
            for index in range(len(rows)):
                row = rows[index]
                hashes |= {text_hash(str(row.get(key, ""))): rows.where(index) for key in ("sentence1", "sentence2")}
            continue
        for dataset in open_datasets([DataFile(path=path)]):
            for index in range(len(dataset)):
                for text in asked_texts(dataset[index]):
                    hashes[text_hash(text)] = dataset.rows.where(index)
    return hashes


def validate(config: TrainConfig, say: Callable[[str], None] = print) -> list[FileReport]:
    """Reports of all files of data.train. Raises DataError for a file that cannot be read at all."""
    folder = Path(config.model.path)
    folder = folder if folder.is_dir() else find_folder(config.model.path)
    grit = GritConfig.load(folder).overridden(**config.grit)
    validator = Validator(Prompts(load_tokenizer(folder)), grit, config.data, config.rag)
    held_out = held_out_hashes(config.evaluation.files)
    reports = []
    for dataset in open_datasets(config.data.train):
        reports.append(validator.check(dataset, held_out))
        for line in reports[-1].lines():
            say(line)
    return reports


def main(arguments: list[str] | None = None) -> None:
    with one_sentence():
        config: Any = auto_cli(TrainConfig, args=arguments, as_positional=False)
        reports = validate(config)
    sys.exit(1 if any(report.malformed for report in reports) else 0)


if __name__ == "__main__":
    main()
