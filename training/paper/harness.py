"""The model as lm-evaluation-harness sees it: likelihoods and greedy or sampled text through the serving path.

So what is measured is what is served, quantised weights and our decoding included. With `chat=True` a context is a
user's turn in the published format and the continuation is what the model answers; without it both are plain text
behind BOS. Local tasks lie in `tasks/*.yaml`; the paper's six are the harness's own, by name, where the hub is
reachable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows

from grit_app.gritlm import GritLM, Sampling
from grit_app.gritlm.write.runtime import Decoder

TASKS: Final = Path(__file__).with_name("tasks")
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
        return [self._generate(request.args[0], request.args[1]) for request in requests]

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else [stop for stop in until if stop]
        sampling = Sampling(
            max_new_tokens=int(settings.get("max_gen_toks", self.max_new_tokens)),
            temperature=float(settings.get("temperature", 0.0)) if settings.get("do_sample") else 0.0,
            top_p=float(settings.get("top_p", 1.0)),
            seed=0,
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


def run(model: GritLM, tasks: Sequence[str], chat: bool, limit: int | None, folder: Path = TASKS) -> dict[str, Any]:
    """Task → the harness's metrics, standard errors included."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    result = lm_eval.simple_evaluate(
        model=HarnessModel(model, chat),
        tasks=list(tasks),
        limit=limit,
        task_manager=TaskManager(include_path=str(folder)),
        bootstrap_iters=1000,
        log_samples=False,
    )
    return {
        name: {k: v for k, v in values.items() if isinstance(v, int | float)}
        for name, values in result["results"].items()
    }
