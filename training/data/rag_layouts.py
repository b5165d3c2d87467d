"""Cache-aware samples: a question, passages and an answer in one of the layouts that the app serves.

The layout comes from `grit_app.rag.strategies`, so training reads exactly the ids, positions and mask that serving
joins its caches to; the answer is put behind the tail. Blocks of documents are pooled in the same forward: they are the
passages of L_rep, and a question's vector is its own block's, or an embedding of its own where it has no block.
Source for mixing layouts and distractors: block-attention work (arXiv 2409.15355, 2410.07590); for bidirectional
blocks there was none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.layout import Layout
from grit_app.gritlm.prompts import Prompts
from grit_app.rag.strategies import ALIASES, REFERENCE, STRATEGIES, build_layout, find_strategy
from training.config import ConfigError, RagConfig
from training.data.formats import RagSample

LAYOUTS = tuple(name for name, strategy in STRATEGIES.items() if strategy.retrieves and not strategy.one_by_one)
"""Every strategy that reads passages may be trained; reading one by one is `doc_cache`, once for each."""


@dataclass(frozen=True)
class RagItem:
    """One sample, laid out. `passages[i]` stands in block `document_blocks[i]` if the layout has document blocks."""

    layout: Layout
    labels: list[int]
    """Places in `layout.input_ids()` of the answer's tokens and its EOS."""

    passages: list[str]
    gold: list[int]
    """Indices of `passages` that give the answer."""

    document_blocks: list[int]
    """Bidirectional blocks that hold a passage each, as numbers among the layout's bidirectional blocks."""

    query_block: int | None
    """The question's block, counted in the same way; None if it has none."""

    teacher: tuple[Layout, list[int]] | None = None
    """The full causal prompt with the same answer, and the places of its labels."""


def check_layouts(config: RagConfig) -> None:
    """Raises ConfigError for a layout that no strategy serves."""
    for name in config.layouts:
        if ALIASES.get(name, name) not in LAYOUTS:
            raise ConfigError(
                f"rag.layouts names {name!r}, which is no strategy with passages. Use {', '.join(LAYOUTS)}."
            )


def lay_out(
    sample: RagSample, rng: random.Random, prompts: Prompts, grit: GritConfig, config: RagConfig, max_length: int
) -> RagItem | None:
    """The sample in a layout drawn by `rng`, distractors dropped until it fits `max_length`; None if it never does.

    Draws: the layout by the shares of `config.layouts`; the number of passages; which distractors; their order.
    """
    name = rng.choices(list(config.layouts), weights=list(config.layouts.values()))[0]
    passages, gold = _drawn_passages(sample, rng, find_strategy(name).most_documents, config)
    passages = [_cut(prompts, text, config.document_max_length) for text in passages]
    answer = answer_ids(prompts, grit, sample.answer if sample.answerable else grit.refusal_sentence)
    while True:
        layout = build_layout(name, prompts, grit, sample.question, passages)
        if layout.length + len(answer) <= max_length:
            break
        removable = [i for i in range(len(passages)) if i not in gold]
        if not removable or len(passages) == 1:
            return None
        drop = removable[-1]
        passages = passages[:drop] + passages[drop + 1 :]
        gold = [g - (g > drop) for g in gold]
    layout, labels = _with_answer(layout, answer)
    bidirectional = [block for block in layout.blocks if block.attention == "bidirectional"]
    roles = [block.role for block in bidirectional]
    teacher = None
    if config.kl_weight > 0 and layout.blocks:
        teacher = _with_answer(build_layout(REFERENCE, prompts, grit, sample.question, passages), answer)
    return RagItem(
        layout,
        labels,
        passages,
        gold,
        [number for number, role in enumerate(roles) if role == "document"],
        next((number for number, role in enumerate(roles) if role == "query"), None),
        teacher,
    )


def answer_ids(prompts: Prompts, grit: GritConfig, answer: str) -> list[int]:
    """Ids of an answer as decoding writes it behind the opened turn, with EOS.

    Behind a prefix ("The answer is") a space comes first, unless the tokenizer puts one before every text by itself.
    """
    text = answer.strip()
    adds_space = prompts.continuation("\na")[-1:] != prompts.continuation("a")[-1:]
    if grit.answer_prefix and not adds_space:
        text = " " + text
    return [*prompts.continuation(text), prompts.eos_id]


def _with_answer(layout: Layout, answer: Sequence[int]) -> tuple[Layout, list[int]]:
    whole = replace(layout, tail=[*layout.tail, *answer])
    return whole, list(range(whole.length - len(answer), whole.length))


def _drawn_passages(
    sample: RagSample, rng: random.Random, most: int | None, config: RagConfig
) -> tuple[list[str], list[int]]:
    """Passages in random order, and which of them are gold. At least one gold passage if the sample is answerable."""
    wanted = most or rng.randint(config.min_documents, config.max_documents)
    gold = list(dict.fromkeys(sample.gold))[:wanted]
    others = [i for i in range(len(sample.passages)) if i not in sample.gold]
    chosen = gold + rng.sample(others, min(len(others), wanted - len(gold)))
    if not chosen:  # every passage is gold, but the row is said to be unanswerable: not possible after parsing
        chosen = [rng.randrange(len(sample.passages))]
    rng.shuffle(chosen)
    return [sample.passages[i] for i in chosen], [place for place, i in enumerate(chosen) if i in gold]


def _cut(prompts: Prompts, text: str, max_tokens: int) -> str:
    """The beginning of a text that is longer than `max_tokens`, cut at a word."""
    while (count := prompts.count(text)) > max_tokens:
        text = text[: max(1, int(len(text) * max_tokens / count) - 1)]
        text = text.rsplit(None, 1)[0] if len(text.split()) > 1 else text
    return text
