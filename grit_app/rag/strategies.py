"""The ways to reuse KV caches in an answer: a table, and one function that turns a row of it into a `Layout`.

    strategy           blocks encoded alone          computed when the question comes           exact against
    none               –                             question                                   –
    rag_query_doc      –                             question, passages                         itself
    rag_doc_query      –                             passages, question                         itself: the reference
    query_cache        question                      passages                                   block mask
    doc_cache          best passage                  question                                   block mask
    query_doc_cache    question, passages            closing only                               block mask
    prefix_cache       best passage, causal          other passages, question                   rag_doc_query
    docs_cache         passages                      question                                   block mask
    docs_query_cache   passages, question            closing only                               block mask
    each_cache         each passage by itself        question, once for each passage            doc_cache, k times

"Block mask": joining the caches and running the tail gives the numbers of one forward of the layout under its mask and
positions. The blocks do not see each other, which plain causal RAG does; what that costs in quality is measured by
`python -m grit_app.benchmark quality`. Source: GRIT (arXiv 2402.09906), section 4 and its appendix's prompts. The name
`doc_query_cache` of that paper means `docs_query_cache` here: the same row with one passage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grit_app.gritlm.errors import InputError
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.layout import Block, Layout, Positions
from grit_app.gritlm.prompts import (
    DOCUMENT_FIRST_CLOSING,
    EMBED,
    QUERY_FIRST_CLOSING,
    USER,
    Prompts,
    rag_turn,
)

REFERENCE = "rag_doc_query"
"""Full causal prefill, document first: what the quality and the speed of the others are measured against."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One row of the table."""

    name: str
    label: str
    """For people, in a few words."""

    retrieves: bool = True
    query_first: bool = False
    """The question stands before the passages; otherwise behind them."""

    documents: Literal["none", "bidirectional", "causal"] = "none"
    """How the passages' caches were made; "none": their tokens are computed at question time."""

    caches_query: bool = False
    """The question's cache from its embedding pass is reused."""

    most_documents: int | None = None
    """Passages read at most, the best ones; None: all that were retrieved."""

    one_by_one: bool = False
    """The question is answered over each passage alone, and one answer chosen; otherwise over all together."""

    @property
    def caches_documents(self) -> bool:
        return self.documents != "none"

    @property
    def caches_anything(self) -> bool:
        return self.caches_documents or self.caches_query


_ROWS = (
    Strategy(name="none", label="No documents", retrieves=False),
    Strategy(name="rag_query_doc", label="RAG, question first", query_first=True),
    Strategy(name="rag_doc_query", label="RAG, passages first"),
    Strategy(name="query_cache", label="Question cached", query_first=True, caches_query=True),
    # As published: one passage. docs_cache is the form for several.
    Strategy(name="doc_cache", label="Best passage cached", documents="bidirectional", most_documents=1),
    Strategy(
        name="query_doc_cache",
        label="Question and passages cached",
        query_first=True,
        documents="bidirectional",
        caches_query=True,
    ),
    Strategy(name="prefix_cache", label="Best passage cached causally", documents="causal"),
    Strategy(name="docs_cache", label="All passages cached", documents="bidirectional"),
    Strategy(
        name="docs_query_cache",
        label="All passages and the question cached",
        documents="bidirectional",
        caches_query=True,
    ),
    Strategy(
        name="each_cache",
        label="Each passage read by itself",
        documents="bidirectional",
        one_by_one=True,
    ),
)

STRATEGIES: dict[str, Strategy] = {row.name: row for row in _ROWS}


ALIASES = {"doc_query_cache": "docs_query_cache"}
"""Older names, which commands, recipes and the API still take."""


def find_strategy(name: str) -> Strategy:
    """The strategy of that name or alias. Raises InputError that lists the names."""
    row = STRATEGIES.get(ALIASES.get(name, name))
    if row is None:
        raise InputError(f"There is no strategy {name!r}. Use one of {', '.join(STRATEGIES)}.")
    return row


def build_layouts(
    strategy: Strategy,
    prompts: Prompts,
    config: GritConfig,
    question: str,
    passages: Sequence[str],
    positions: Positions = "consecutive",
) -> list[Layout]:
    """The prompts of one question: one over all passages, or one over each passage where they are read one by one."""
    groups = [[text] for text in passages] if strategy.one_by_one else [passages]
    return [build_layout(strategy, prompts, config, question, group, positions) for group in groups]


def build_layout(
    strategy: Strategy | str,
    prompts: Prompts,
    config: GritConfig,
    question: str,
    passages: Sequence[str],
    positions: Positions = "consecutive",
) -> Layout:
    """Blocks and tail of one question over `passages`, best first.

    positions   "colliding": the two-cache strategies as published, each cache at position 0 with its header visible;
                the document's block of query_doc_cache then opens with a newline instead of BOS, also as published

    The tail always holds at least the closing and the opened answer. A block's ids depend on its own text alone, so its
    cache can be made before the question is known. Of a strategy that reads one by one, the prompt over all `passages`
    as one: see `build_layouts`. Raises InputError for an unknown strategy, an empty question, or a
    strategy that retrieves without a passage.
    """
    row = find_strategy(strategy) if isinstance(strategy, str) else strategy
    if not question.strip():
        raise InputError("The question is empty. Type one.")
    texts = list(passages)[: row.most_documents] if row.retrieves else []
    if row.retrieves and not texts:
        raise InputError(f"The strategy {row.name} needs at least one passage.")
    if row.documents == "causal":
        return _prefix_layout(prompts, config, question, texts)
    blocks = _blocks(row, prompts, config, question, texts, positions)
    computed_documents = [] if row.caches_documents else texts
    computed_query = [] if row.caches_query else [question]
    parts = [*computed_query, *computed_documents] if row.query_first else [*computed_documents, *computed_query]
    if row.retrieves:
        parts.append(QUERY_FIRST_CLOSING if row.query_first else DOCUMENT_FIRST_CLOSING)
    turn = rag_turn(parts, answer_prefix=config.answer_prefix, continued=bool(blocks))
    tail = prompts.continuation(turn) if blocks else prompts.opening(turn)
    return Layout(blocks, tail, positions)


def document_block(prompts: Prompts, text: str) -> Block:
    """A passage as its embedding pass reads it: no instruction."""
    prompt = prompts.embed(text)
    return Block(prompt.ids, "document", "bidirectional", prompt.header_length)


def query_block(prompts: Prompts, config: GritConfig, question: str) -> Block:
    """The question as its embedding pass reads it, with the checkpoint's retrieval instruction in the header."""
    prompt = prompts.embed(question, config.retrieval_instruction)
    return Block(prompt.ids, "query", _attention(config), prompt.header_length)


def prefix_block(prompts: Prompts, text: str) -> Block:
    """A passage as the beginning of a user's turn, for its causal cache."""
    return Block(prompts.opening(USER + text), "document", "causal", header_length=0)


def _blocks(
    row: Strategy, prompts: Prompts, config: GritConfig, question: str, texts: Sequence[str], positions: Positions
) -> list[Block]:
    documents: list[Block] = []
    if row.caches_documents:
        published = row.query_first and positions == "colliding"
        documents = [
            _continued_block(prompts, config, text) if published else document_block(prompts, text) for text in texts
        ]
        documents = [Block(block.ids, block.role, _attention(config), block.header_length) for block in documents]
    query = [query_block(prompts, config, question)] if row.caches_query else []
    return query + documents if row.query_first else documents + query


def _continued_block(prompts: Prompts, config: GritConfig, text: str) -> Block:
    """A passage in the embedding format without BOS, for a cache that is put behind the question's."""
    prompt = prompts.embed(text)
    header = prompts.continuation("\n" + EMBED)
    return Block([*header, *prompt.sample], "document", _attention(config), len(header))


def _attention(config: GritConfig) -> Literal["bidirectional", "causal"]:
    return "causal" if config.embedding_is_causal else "bidirectional"


def _prefix_layout(prompts: Prompts, config: GritConfig, question: str, texts: Sequence[str]) -> Layout:
    """The first passage is the prompt's beginning and comes from its causal cache; all else is computed.

    The ids are those of rag_doc_query, unless its tokenisation merges across the seam between the passage and what
    follows: then the two sides are tokenised on their own.
    """
    block = prefix_block(prompts, texts[0])
    parts = [*texts, question, DOCUMENT_FIRST_CLOSING]
    turn = rag_turn(parts, answer_prefix=config.answer_prefix, continued=False)
    whole, seam = prompts.opening(turn), len(block)
    if whole[:seam] == list(block.ids):
        return Layout([block], whole[seam:])
    return Layout([block], prompts.continuation(turn[len(USER) + len(texts[0]) :]))
