"""Training reads what serving reads: one masked forward gives the numbers of joined caches and of `encode`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from grit_app.gritlm import GritLM
from grit_app.gritlm.cache.kv_cache import join
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.layout import Layout
from grit_app.gritlm.write.runtime import Decoder
from grit_app.rag.strategies import build_layout
from training.config import ConfigError, RagConfig
from training.data.chunk import Forwards, WriteItem
from training.data.collate import write_chunks
from training.data.formats import RagSample
from training.data.rag_layouts import LAYOUTS, answer_ids, check_layouts, lay_out
from training.step.module import GritModule
from training.step.segments import use_segments

SAMPLE = RagSample(
    "Where do bees keep honey?",
    ["Bees make honey from nectar.", "They store it in combs made of wax.", "The river reaches the sea.", "Hello."],
    [1],
    "in combs",
    True,
)
GRIT = GritConfig(answer_prefix="", retrieval_instruction="Find the passage")


def laid_out(model: Any, name: str, seed: int = 0, documents: int = 3) -> Any:
    config = RagConfig(layouts={name: 1.0}, min_documents=documents, max_documents=documents)
    return lay_out(SAMPLE, random.Random(seed), model.prompts, GRIT, config, 512)


def served_logits(model: Any, layout: Layout, answer: int) -> torch.Tensor:
    """Logits before each answer token when serving: every block encoded alone, caches joined, tail decoded."""
    caches = []
    for block in layout.blocks:
        if block.attention == "causal":
            caches.append(model.causal_cache(block.ids))
        else:
            text = model.prompts.decode(block.ids[block.header_length :])
            instruction = GRIT.retrieval_instruction if block.role == "query" else ""
            encoding = next(iter(model.encode_iter([text], instruction, return_cache=True)))
            assert list(encoding.cache.ids) == list(block.ids)
            caches.append(encoding.cache)
    cache = join(caches, model.rope, layout.positions, layout.keep_headers) if caches else None
    decoder = Decoder(model.hf_model)
    space = decoder.workspace(cache, len(layout.tail))
    states = decoder.hidden(list(layout.tail), space)[0]
    return decoder.project(states[-answer - 1 : -1])


PADDED, PACKED = Forwards(), Forwards(is_packed=True)


def segmented(load: Callable[..., Any]) -> Any:
    """A model of its own, since its attention is changed."""
    model = GritLM.from_pretrained(load("mistral"), dtype="float32")
    use_segments(model.hf_model)
    return model


@pytest.mark.parametrize("forwards", [PADDED, PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_training_forward_equals_joined_caches(tiny_model_folder: Any, name: str, forwards: Forwards) -> None:
    """What the answer's tokens see in training is what decoding sees over joined caches, beside others too."""
    tiny_model = segmented(tiny_model_folder)
    item = laid_out(tiny_model, name)
    short = replace(item.layout, tail=item.layout.tail[:-1])  # a neighbour of another length: the batch is padded
    items = [WriteItem(item.layout, item.labels, 0), WriteItem(short, item.labels[:-1], 1)]
    (chunk,) = write_chunks(items, budget=10_000, stream="rag", forwards=forwards)
    assert (chunk.segments is not None) == forwards.is_packed
    module = GritModule(tiny_model.hf_model)
    states = module._run(chunk).last_hidden_state.flatten(0, 1)[chunk.predictors]
    logits = tiny_model.hf_model.get_output_embeddings()(states)[: len(item.labels)]
    expected = served_logits(tiny_model, item.layout, len(item.labels))
    assert float(expected.abs().max()) > 0.5
    assert float((logits - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["docs_cache", "docs_query_cache", "query_doc_cache"])
@pytest.mark.parametrize("forwards", [PADDED, PACKED], ids=["padded", "packed"])
def test_pooled_blocks_equal_stand_alone_embeddings(tiny_model_folder: Any, name: str, forwards: Forwards) -> None:
    """One forward carries both losses: a block's mean is the embedding that search uses."""
    tiny_model = segmented(tiny_model_folder)
    item = laid_out(tiny_model, name)
    blocks = len(item.document_blocks) + (item.query_block is not None)
    whole = WriteItem(item.layout, item.labels, 0, range(blocks))
    (chunk,) = write_chunks([whole], budget=10_000, stream="rag", forwards=forwards)
    vectors = GritModule(tiny_model.hf_model)(chunk, with_answers=False)[0].detach().numpy()
    documents = tiny_model.encode(item.passages)
    assert abs(vectors[item.document_blocks] - documents).max() < 1e-5
    assert abs(documents[0] - documents[1]).max() > 1e-2
    if item.query_block is not None:
        query = tiny_model.encode([SAMPLE.question], GRIT.retrieval_instruction)[0]
        assert abs(vectors[item.query_block] - query).max() < 1e-5


def test_answer_is_learnt_with_its_end_and_nothing_else(tiny_model: Any) -> None:
    """The trained tokens are the answer and EOS, in every layout; the refusal where the text gives none."""
    for name in LAYOUTS:
        item = laid_out(tiny_model, name)
        ids = item.layout.input_ids().tolist()
        assert tiny_model.prompts.decode([ids[i] for i in item.labels]) == "in combs"
        assert ids[item.labels[-1]] == tiny_model.prompts.eos_id and item.labels[-1] == len(ids) - 1
    unanswerable = replace(SAMPLE, gold=[], answerable=False)
    config = RagConfig(layouts={"docs_cache": 1.0})
    item = lay_out(unanswerable, random.Random(1), tiny_model.prompts, GRIT, config, 512)
    assert item is not None and item.gold == []
    ids = item.layout.input_ids().tolist()
    assert tiny_model.prompts.decode([ids[i] for i in item.labels]) == GRIT.refusal_sentence


def test_answer_behind_a_prefix_starts_with_a_space(tiny_model: Any) -> None:
    """`The answer is` + ` in combs`, as decoding continues it."""
    prefixed = replace(GRIT, answer_prefix="The answer is")
    layout = build_layout("doc_cache", tiny_model.prompts, prefixed, SAMPLE.question, SAMPLE.passages[1:2])
    ids = [*layout.tail, *answer_ids(tiny_model.prompts, prefixed, "in combs")]
    assert tiny_model.prompts.decode(ids).endswith("The answer is in combs")


def test_gold_passage_is_always_shown_and_distractors_vary(tiny_model: Any) -> None:
    """Of an answerable sample at least one gold passage is in the layout, at a place that changes."""
    places, shown = set(), set()
    for seed in range(20):
        item = laid_out(tiny_model, "docs_cache", seed)
        assert [item.passages[g] for g in item.gold] == [SAMPLE.passages[1]]
        places.add(item.gold[0])
        shown |= set(item.passages)
    assert places == {0, 1, 2} and shown == set(SAMPLE.passages)


def test_distractors_give_way_to_the_length_limit(tiny_model: Any) -> None:
    """A sample that is too long loses distractors, never its gold passage; if it still does not fit it is unusable."""
    config = RagConfig(layouts={"rag_doc_query": 1.0}, min_documents=4, max_documents=4)
    whole = lay_out(SAMPLE, random.Random(0), tiny_model.prompts, GRIT, config, 512)
    limit = whole.layout.length - 1
    item = lay_out(SAMPLE, random.Random(0), tiny_model.prompts, GRIT, config, limit)
    assert len(whole.passages) == 4 and len(item.passages) == 3 and item.layout.length <= limit
    assert [item.passages[g] for g in item.gold] == [SAMPLE.passages[1]]
    assert lay_out(SAMPLE, random.Random(0), tiny_model.prompts, GRIT, config, 20) is None


def test_unknown_layout_is_refused() -> None:
    with pytest.raises(ConfigError, match="telepathy"):
        check_layouts(RagConfig(layouts={"telepathy": 1.0}))
