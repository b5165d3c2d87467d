"""The table of strategies: published ids, and every cached path equal to one forward of its layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from grit_app.gritlm import GritConfig, Layout, join
from grit_app.gritlm.errors import InputError
from grit_app.gritlm.layout import additive_mask
from grit_app.gritlm.write.runtime import Decoder
from grit_app.rag.block_caches import block_cache
from grit_app.rag.strategies import (
    ALIASES,
    REFERENCE,
    STRATEGIES,
    build_layout,
    build_layouts,
    find_strategy,
    prefix_block,
)

NAMES = {
    "none", "rag_query_doc", "rag_doc_query", "query_cache", "doc_cache", "query_doc_cache",
    "prefix_cache", "docs_cache", "docs_query_cache", "each_cache",
}  # fmt: skip
QUESTION = "How many schools took part?"
PASSAGES = ["A total of 370 schools took part.", "Bees store honey in combs made of wax.", "The river is long."]
CONFIG = GritConfig(retrieval_instruction="Retrieve semantically similar text.")
CLOSING_DOC = "Answer the prior query while optionally using the context prior to it"
CLOSING_QUERY = "Optionally using the prior context answer the query prior to it"


def one_forward(model: Any, layout: Layout) -> torch.Tensor:
    """Logits of the tail's tokens from stock transformers in one pass under the layout's mask and positions."""
    mask = additive_mask(layout.mask(), torch.float32)[None, None]
    with model.lock, torch.inference_mode():
        output = model.hf_model(
            input_ids=layout.input_ids()[None], position_ids=layout.position_ids()[None], attention_mask=mask,
            use_cache=False,
        )  # fmt: skip
    return output.logits[0, slice(*layout.tail_span)].float()


def served(model: Any, layout: Layout) -> torch.Tensor:
    """Logits of the tail's tokens over the joined caches, as an answer computes them."""
    caches = [block_cache(model, block) for block in layout.blocks]
    cache = join(caches, model.rope, layout.positions, layout.keep_headers) if caches else None
    decoder = Decoder(model.hf_model)
    space = decoder.workspace(cache, new_tokens=len(layout.tail))
    try:
        return decoder.project(decoder.hidden(layout.tail, space)[0])
    finally:
        space.close()


def test_the_table_has_the_published_names_and_ours():
    assert set(STRATEGIES) == NAMES
    assert all(name == row.name for name, row in STRATEGIES.items())


def test_the_published_name_of_the_two_cache_row_still_finds_it():
    """Commands, recipes and scripts of before name it so; it is one row, not a second one."""
    assert find_strategy("doc_query_cache") is STRATEGIES["docs_query_cache"]
    assert not set(ALIASES) & set(STRATEGIES)
    assert REFERENCE in STRATEGIES


@pytest.mark.parametrize("family", ["mistral", "mixtral", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", sorted(NAMES))
def test_served_logits_equal_one_forward_of_the_layout(load_tiny, family, name):
    """The law that makes caching honest: reading blocks alone and joining them changes no number."""
    model = load_tiny(family)
    for count in (1, 3):
        layout = build_layout(name, model.prompts, CONFIG, QUESTION, PASSAGES[:count])
        expected, found = one_forward(model, layout), served(model, layout)
        assert expected.std() > 0.1  # a model that says the same everywhere would pass
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["query_doc_cache", "docs_query_cache"])
def test_colliding_positions_are_served_as_laid_out_and_differ_from_consecutive_ones(tiny_model, name):
    """The as-published ablation must be what it says, and not silently the corrected form."""
    published = build_layout(name, tiny_model.prompts, CONFIG, QUESTION, PASSAGES[:2], positions="colliding")
    torch.testing.assert_close(served(tiny_model, published), one_forward(tiny_model, published), atol=1e-4, rtol=1e-4)
    ours = build_layout(name, tiny_model.prompts, CONFIG, QUESTION, PASSAGES[:2])
    assert (served(tiny_model, published)[-1] - served(tiny_model, ours)[-1]).abs().max() > 1e-2


def test_prefix_cache_is_full_prefill_with_the_same_tokens(tiny_model):
    """Exactness claim: same ids and same logits as rag_doc_query, for any number of passages."""
    for count in (1, 2, 3):
        full = build_layout("rag_doc_query", tiny_model.prompts, CONFIG, QUESTION, PASSAGES[:count])
        cached = build_layout("prefix_cache", tiny_model.prompts, CONFIG, QUESTION, PASSAGES[:count])
        assert cached.cached_length > 0
        assert torch.equal(full.input_ids(), cached.input_ids())
        tail = len(cached.tail)
        torch.testing.assert_close(served(tiny_model, cached), served(tiny_model, full)[-tail:], atol=1e-4, rtol=1e-4)


def test_bidirectional_and_causal_caches_of_a_document_give_different_numbers(tiny_model):
    """doc_cache approximates rag_doc_query; if both agreed the bidirectional pass had not run."""
    approximate = build_layout("doc_cache", tiny_model.prompts, CONFIG, QUESTION, PASSAGES[:1])
    causal = replace(approximate, blocks=[replace(block, attention="causal") for block in approximate.blocks])
    assert (served(tiny_model, approximate) - served(tiny_model, causal)).abs().max() > 1e-2


def test_ids_are_those_of_the_published_prompts(tiny_model):
    """Texts of the reference's prompts, tokenised jointly; `The answer is` and both closings included."""
    prompts, doc = tiny_model.prompts, PASSAGES[0]
    plain = GritConfig()

    def tail(name: str) -> list[int]:
        return list(build_layout(name, prompts, plain, QUESTION, [doc]).tail)

    answer = "\n<|assistant|>\nThe answer is"
    assert tail("none") == prompts.opening(f"<|user|>\n{QUESTION}{answer}")
    assert tail("rag_query_doc") == prompts.opening(f"<|user|>\n{QUESTION}\n\n{doc}\n\n{CLOSING_QUERY}{answer}")
    assert tail("rag_doc_query") == prompts.opening(f"<|user|>\n{doc}\n\n{QUESTION}\n\n{CLOSING_DOC}{answer}")
    assert tail("query_cache") == prompts.continuation(f"\n<|user|>\n{doc}\n\n{CLOSING_QUERY}{answer}")
    assert tail("doc_cache") == prompts.continuation(f"\n<|user|>\n{QUESTION}\n\n{CLOSING_DOC}{answer}")
    assert tail("query_doc_cache") == prompts.continuation(f"\n<|user|>\n{CLOSING_QUERY}{answer}")
    assert tail("doc_query_cache") == prompts.continuation(f"\n<|user|>\n{CLOSING_DOC}{answer}")


def test_blocks_are_embedding_inputs_and_bos_follows_the_published_rules(tiny_model):
    """As published, Doc-Query has BOS on both parts, and the document of Query-Doc opens with a newline instead."""
    prompts, plain = tiny_model.prompts, GritConfig()
    document, query = prompts.embed(PASSAGES[0]).ids, prompts.embed(QUESTION).ids
    both = build_layout("doc_query_cache", prompts, plain, QUESTION, PASSAGES[:1], positions="colliding")
    assert [list(block.ids) for block in both.blocks] == [document, query]
    assert [block.ids[0] for block in both.blocks] == [prompts.bos_id] * 2
    reverse = build_layout("query_doc_cache", prompts, plain, QUESTION, PASSAGES[:1], positions="colliding")
    header = prompts.continuation("\n<|embed|>\n")
    assert list(reverse.blocks[0].ids) == query
    assert list(reverse.blocks[1].ids) == [*header, *prompts.embed(PASSAGES[0]).sample]
    assert prompts.bos_id not in reverse.blocks[1].ids
    ours = build_layout("query_doc_cache", prompts, plain, QUESTION, PASSAGES[:1])
    assert list(ours.blocks[1].ids) == document  # the stored cache, its header hidden by the join


def test_the_tail_of_a_cached_layout_is_short_and_bos_stands_first_once(tiny_model):
    layout = build_layout("docs_query_cache", tiny_model.prompts, CONFIG, QUESTION, PASSAGES)
    visible = [i for start, stop in layout.visible_spans() for i in layout.input_ids()[start:stop].tolist()]
    assert visible.count(tiny_model.prompts.bos_id) == 1 and visible[0] == tiny_model.prompts.bos_id
    assert len(layout.tail) < len(visible)


def test_how_many_passages_a_strategy_reads(tiny_model):
    """doc_cache is the published form, one passage; the others take all that were retrieved."""

    def passages(name: str) -> int:
        layout = build_layout(name, tiny_model.prompts, CONFIG, QUESTION, PASSAGES)
        return sum(block.role == "document" for block in layout.blocks)

    counts = {name: passages(name) for name in NAMES}
    assert counts == {
        "none": 0, "rag_query_doc": 0, "rag_doc_query": 0, "query_cache": 0, "doc_cache": 1, "query_doc_cache": 3,
        "prefix_cache": 1, "docs_cache": 3, "docs_query_cache": 3, "each_cache": 3,
    }  # fmt: skip
    text = tiny_model.prompts.decode(build_layout("rag_doc_query", tiny_model.prompts, CONFIG, QUESTION, PASSAGES).tail)
    assert all(passage in text for passage in PASSAGES)


def test_reading_one_by_one_is_doc_cache_for_each_passage(tiny_model):
    row = find_strategy("each_cache")
    layouts = build_layouts(row, tiny_model.prompts, CONFIG, QUESTION, PASSAGES)
    assert layouts == [build_layout("doc_cache", tiny_model.prompts, CONFIG, QUESTION, [text]) for text in PASSAGES]
    (together,) = build_layouts(find_strategy("docs_cache"), tiny_model.prompts, CONFIG, QUESTION, PASSAGES)
    assert len(together.blocks) == len(PASSAGES)


def test_prefix_block_does_not_depend_on_the_question(tiny_model):
    """Otherwise a stored causal cache would never be found again."""
    layouts = [
        build_layout("prefix_cache", tiny_model.prompts, CONFIG, question, PASSAGES)
        for question in ("a?", "Who is it?")
    ]
    assert {tuple(layout.blocks[0].ids) for layout in layouts} == {
        tuple(prefix_block(tiny_model.prompts, PASSAGES[0]).ids)
    }


def test_seam_that_a_tokenizer_merges_is_tokenised_on_both_sides_alone(tiny_model):
    """A passage that ends in a newline may merge with the two that follow: ids must still cover the whole prompt."""
    passage = PASSAGES[0] + "\n"
    layout = build_layout("prefix_cache", tiny_model.prompts, CONFIG, QUESTION, [passage])
    assert tiny_model.prompts.decode(layout.input_ids().tolist()) == tiny_model.prompts.decode(
        build_layout("rag_doc_query", tiny_model.prompts, CONFIG, QUESTION, [passage]).tail
    )


@pytest.mark.parametrize(
    ("name", "question", "passages", "words"),
    [
        ("rag", QUESTION, PASSAGES, "There is no strategy 'rag'"),
        ("docs_cache", "  ", PASSAGES, "question is empty"),
        ("docs_cache", QUESTION, [], "at least one passage"),
    ],
)
def test_what_cannot_be_laid_out_is_a_sentence(tiny_model, name, question, passages, words):
    with pytest.raises(InputError, match=words):
        build_layout(name, tiny_model.prompts, CONFIG, question, passages)
