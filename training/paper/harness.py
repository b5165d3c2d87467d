"""The model as lm-evaluation-harness sees it: likelihoods and greedy or sampled text through the serving path.

So what is measured is what is served, quantised weights and our decoding included. With `chat=True` a context is a
user's turn in the published format and the continuation is what the model answers; without it both are plain text
behind BOS. Local tasks lie in `tasks/*.yaml`. The paper's own tasks (`PUBLISHED`) need the hub; programs that the model
writes for HumanEval run in a confined process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows

from grit_app.errors import InputError
from grit_app.gritlm import GritLM, Sampling
from grit_app.gritlm.write.runtime import Decoder

TASKS: Final = Path(__file__).with_name("tasks")


@dataclass(frozen=True)
class PublishedTask:
    """How a column of the paper's table 2 is measured."""

    names: tuple[str, ...]
    """The harness's; their mean is the column."""

    metric: str
    limit: int | None = None
    """Most rows of each name, as published."""

    shots: int | None = None
    """Examples before each question; None: as many as the harness's own task has (GSM8K 8, BBH 3, MMLU none)."""


CONFINED: Final = "humaneval_confined"
LANGUAGES: Final = ("ar", "bn", "en", "fi", "id", "ko", "ru", "sw", "te")
PUBLISHED: Final = {
    "MMLU": PublishedTask(("mmlu",), "acc,none"),
    "GSM8K": PublishedTask(("gsm8k_cot",), "exact_match,flexible-extract", 200),
    "BBH": PublishedTask(("bbh_cot_fewshot",), "exact_match,get-answer", 40),
    "TyDi QA": PublishedTask(tuple(f"tydiqa_goldp_{language}" for language in LANGUAGES), "f1,none", 100, shots=1),
    "HumanEval": PublishedTask((CONFINED,), "pass_at_1,none"),
}
"""All in a chat, as published; AlpacaEval needs a judge that is no part of this project."""

ROWS: Final = 128
"""Rows of logits at once."""


class HarnessModel(LM):  # type: ignore[misc]
    """GritLM behind the harness's interface."""

    def __init__(self, model: GritLM, chat: bool = False, max_new_tokens: int = 256) -> None:
        super().__init__()
        self.model = model
        self.chat = chat
        self.max_new_tokens = max_new_tokens

    @property
    def tokenizer_name(self) -> str:
        return self.model.name

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(Σ log P of the continuation's tokens, whether greedy decoding gives them), one a request."""
        return [self._score(*self._pair(*request.args)) for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Σ log P of each whole text; longer ones in windows of the model's context, each token predicted once."""
        totals = []
        for request in requests:
            ids = self.model.prompts.opening(request.args[0])[1:]
            windows = get_rolling_token_windows(
                token_list=ids,
                prefix_token=self.model.prompts.bos_id,
                max_seq_len=self.model.context - 1,
                context_len=1,
            )
            totals.append(sum(self._score(context, wanted)[0] for context, wanted in _split(windows)))
        return totals

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answer to each context, cut before the first of its stop strings."""
        return [self._answer(*request.args, seed=seed) for seed, request in enumerate(requests)]

    def _answer(self, context: str, settings: dict[str, Any], *, seed: int) -> str:
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else [stop for stop in until if stop]
        sampling = Sampling(
            max_new_tokens=int(settings.get("max_gen_toks", self.max_new_tokens)),
            temperature=float(settings.get("temperature", 0.0)) if settings.get("do_sample") else 0.0,
            top_p=float(settings.get("top_p", 1.0)),
            seed=seed,  # several answers to one question differ
        )
        ids = self._context_ids(context)[-(self.model.context - sampling.max_new_tokens) :]
        stream = self.model.stream_ids(ids, None, sampling)
        text = ""
        for piece in stream:
            text += piece
            if any(stop in text for stop in stops):
                break
        stream.close()
        for stop in stops:
            text = text.split(stop)[0]
        return text

    def _context_ids(self, context: str) -> list[int]:
        if self.chat:
            return self.model.prompts.chat([{"role": "user", "content": context}]).ids
        return self.model.prompts.opening(context)

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both, tokenised together where that leaves a border between them."""
        prompts = self.model.prompts
        if self.chat:
            return self._context_ids(context), prompts.continuation(continuation.strip())
        if not context:
            return [prompts.bos_id], prompts.opening(continuation)[1:]
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        whole, head = prompts.opening(context + continuation), prompts.opening(context)
        if whole[: len(head)] == head:
            return head, whole[len(head) :]
        return head, prompts.continuation(continuation)

    def _score(self, context: Sequence[int], wanted: Sequence[int]) -> tuple[float, bool]:
        if not wanted:
            return 0.0, True
        context = list(context)[-(self.model.context - len(wanted)) :]
        decoder = Decoder(self.model.hf_model)
        ids = [*context, *wanted]
        space = decoder.workspace(None, new_tokens=len(ids))
        try:
            with self.model.scheduler.turn(tokens=len(ids)):
                hidden = decoder.hidden(ids[:-1], space)[0, len(context) - 1 :]
                return _likelihood(decoder, hidden, wanted)
        finally:
            space.close()


def _likelihood(decoder: Decoder, hidden: torch.Tensor, wanted: Sequence[int]) -> tuple[float, bool]:
    """`hidden` [n, h] are the states that predict the n ids of `wanted`."""
    total, greedy = 0.0, True
    for first in range(0, len(wanted), ROWS):
        target = torch.tensor(wanted[first : first + ROWS], device=hidden.device)
        log_p = decoder.project(hidden[first : first + ROWS]).float().log_softmax(-1)
        total += float(log_p.gather(1, target[:, None]).sum())
        greedy &= bool((log_p.argmax(-1) == target).all())
    return total, greedy


def _split(windows: Iterator[tuple[list[int], list[int]]]) -> Iterator[tuple[list[int], list[int]]]:
    """The harness's windows overlap; gives (ids before the first predicted one, ids predicted) of each."""
    for read, predicted in windows:
        yield read[: len(read) - len(predicted) + 1], predicted


def run_published(model: GritLM, name: str, limit: int | None) -> tuple[float, float, int]:
    """A column of table 2: mean, its standard error, rows. Raises InputError where the hub does not give the data."""
    task = PUBLISHED[name]
    most = task.limit if limit is None else min(limit, task.limit or limit)
    try:
        found = run(model, task.names, chat=True, limit=most, shots=task.shots)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be measured: its data did not come from the hub ({str(error)[:200]})."
        ) from error
    scores = [found[each] for each in task.names]
    values = [each[task.metric] for each in scores]
    errors = [each.get(task.metric.replace(",", "_stderr,"), 0.0) for each in scores]
    rows = sum(int(each.get("sample_len", 0)) for each in scores)
    deviation = sum(each * each for each in errors) ** 0.5 / len(errors)
    return sum(values) / len(values), deviation, rows


def run(
    model: GritLM,
    tasks: Sequence[str],
    chat: bool,
    limit: int | None,
    folder: Path = TASKS,
    shots: int | None = None,
) -> dict[str, Any]:
    """Task → the harness's metrics, standard errors included."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    own = {path.stem for path in folder.glob("*.yaml")} | {CONFINED}
    result = lm_eval.simple_evaluate(
        model=HarnessModel(model, chat),
        tasks=list(tasks),
        num_fewshot=shots,
        limit=limit,
        # Reading the thousands of files of the harness's own tasks takes seconds.
        task_manager=TaskManager(include_path=str(folder), include_defaults=not set(tasks) <= own),
        bootstrap_iters=1000,
        log_samples=False,
    )
    return {
        name: {k: v for k, v in values.items() if isinstance(v, int | float)}
        for name, values in result["results"].items()
    }
