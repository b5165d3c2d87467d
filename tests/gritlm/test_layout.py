"""The one description of blocks and tail, against naive loops written from its definition."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grit_app.gritlm.embed.attention import run_trunk
from grit_app.gritlm.embed.pooling import pool
from grit_app.gritlm.errors import InputError
from grit_app.gritlm.layout import Block, Layout, Positions, additive_mask

TOKEN = st.integers(3, 500)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    ids = draw(st.lists(TOKEN, min_size=1, max_size=6))
    return Block(
        ids=ids,
        role=draw(st.sampled_from(["document", "query", "prompt"])),
        attention=draw(st.sampled_from(["bidirectional", "causal"])),
        header_length=draw(st.integers(0, len(ids) - 1)),
    )


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    return Layout(
        blocks=draw(st.lists(blocks(), max_size=4)),
        tail=draw(st.lists(TOKEN, max_size=5)),
        positions=draw(st.sampled_from(["consecutive", "colliding"])),
        keep_headers=draw(st.booleans()),
    )


def tokens(layout: Layout) -> list[tuple[int, int]]:
    """(block number, index in block) of every input id; the tail is block number -1."""
    listed = [(number, index) for number, block in enumerate(layout.blocks) for index in range(len(block.ids))]
    return listed + [(-1, index) for index in range(len(layout.tail))]


def is_visible(layout: Layout, number: int, index: int) -> bool:
    """Whether the tail sees this token of a block."""
    is_later_header = number > 0 and index < layout.blocks[number].header_length
    return not is_later_header or layout.keep_headers or layout.positions == "colliding"


@settings(max_examples=120, deadline=None, derandomize=True)
@given(layout=layouts())
def test_mask_against_pairs_of_tokens(layout: Layout) -> None:
    mask = layout.mask()
    listed = tokens(layout)
    assert mask.shape == (len(listed), len(listed))
    for (q, (qb, qi)), (k, (kb, ki)) in product(enumerate(listed), repeat=2):
        if qb == -1 and kb == -1:
            expected = ki <= qi
        elif qb == -1:
            expected = is_visible(layout, kb, ki)
        elif qb != kb:
            expected = False
        else:
            expected = layout.blocks[qb].attention == "bidirectional" or ki <= qi
        assert bool(mask[q, k]) is expected, (q, k)


def naive_positions(layout: Layout) -> list[int]:
    """Written token by token: where each visible token of a block must stand, then its hidden header before it."""
    result: list[int] = []
    next_free = 0
    for number, block in enumerate(layout.blocks):
        hidden = [i for i in range(len(block.ids)) if not is_visible(layout, number, i)]
        start = 0 if layout.positions == "colliding" else next_free
        positions = [start + i - len(hidden) for i in range(len(block.ids))]
        result += positions
        next_free += len(block.ids) - len(hidden)
    return result + [next_free + i for i in range(len(layout.tail))]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(layout=layouts())
def test_positions_and_ids(layout: Layout) -> None:
    assert layout.position_ids().tolist() == naive_positions(layout)
    assert layout.input_ids().tolist() == [
        layout.blocks[b].ids[i] if b >= 0 else layout.tail[i] for b, i in tokens(layout)
    ]
    assert layout.length == len(tokens(layout))
    visible = [(b, i) for b, i in tokens(layout) if b >= 0 and is_visible(layout, b, i)]
    assert layout.cached_length == len(visible)
    start, stop = layout.tail_span
    assert tokens(layout)[start:stop] == [(-1, i) for i in range(len(layout.tail))]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(layout=layouts())
def test_pooled_spans_are_the_samples_of_bidirectional_blocks(layout: Layout) -> None:
    listed = tokens(layout)
    pooled = [[listed[i] for i in range(start, stop)] for start, stop in layout.pooled_spans()]
    assert pooled == [
        [(number, index) for index in range(block.header_length, len(block.ids))]
        for number, block in enumerate(layout.blocks)
        if block.attention == "bidirectional"
    ]


def test_worked_example() -> None:
    """Two documents with a header of two tokens, drawn by hand."""
    layout = Layout([Block([1, 9, 20, 21], header_length=2), Block([1, 9, 30], header_length=2)], [40, 41])
    assert layout.position_ids().tolist() == [0, 1, 2, 3, 2, 3, 4, 5, 6]
    assert (layout.cached_length, layout.tail_position, layout.tail_span) == (5, 5, (7, 9))
    assert layout.mask().int().tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0, 1, 1, 0],
        [1, 1, 1, 1, 0, 0, 1, 1, 1],
    ]


@pytest.mark.parametrize(("ids", "header"), [([], 0), ([1, 2], 2), ([1, 2], -1)])
def test_a_block_without_a_sample_is_refused(ids: list[int], header: int) -> None:
    with pytest.raises(InputError):
        Block(ids, header_length=header)


def test_additive_mask_is_zero_or_lowest() -> None:
    mask = torch.tensor([[True, False]])
    assert additive_mask(mask, torch.float32).tolist() == [[0.0, torch.finfo(torch.float32).min]]


def layout_of(model: Any, positions: Positions, keep_headers: bool = False) -> Layout:
    texts = ["The river rises in the mountains", "Bees make honey from nectar", "370 schools took part"]
    prompts = [model.prompts.embed(text) for text in texts]
    return Layout(
        [Block(prompt.ids, "document", "bidirectional", prompt.header_length) for prompt in prompts],
        model.prompts.continuation("\n<|user|>\nHow many?\n<|assistant|>\n"),
        positions,
        keep_headers,
    )


def one_forward(model: Any, layout: Layout) -> torch.Tensor:
    """Final hidden states [T, hidden] of the whole layout under its mask."""
    with model.lock, torch.inference_mode():
        output = run_trunk(
            model.hf_model,
            layout.input_ids()[None],
            is_causal=True,
            attention_mask=additive_mask(layout.mask(), model.dtype)[None, None],
            position_ids=layout.position_ids()[None],
        )
    return output.last_hidden_state[0]


@pytest.mark.parametrize("family", ["mistral", "mixtral", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("positions", ["consecutive", "colliding"])
def test_one_forward_gives_each_block_its_own_embedding(load_tiny: Any, family: str, positions: Positions) -> None:
    """Neighbours and positions change nothing inside a block: training on layouts trains what serving runs."""
    model = load_tiny(family)
    layout = layout_of(model, positions)
    states = one_forward(model, layout)
    mask = torch.zeros(len(layout.blocks), layout.length, dtype=torch.bool)
    for row, (start, stop) in enumerate(layout.pooled_spans()):
        mask[row, start:stop] = True
    pooled = pool(states.expand(len(layout.blocks), -1, -1), mask)
    alone = model.encode([model.prompts.decode(block.ids[block.header_length :]) for block in layout.blocks])
    torch.testing.assert_close(torch.nn.functional.normalize(pooled), torch.from_numpy(alone), atol=2e-5, rtol=0)


@pytest.mark.parametrize("positions", ["consecutive", "colliding"])
@pytest.mark.parametrize("keep_headers", [False, True])
def test_joined_caches_give_the_tail_of_one_forward(tiny_model: Any, positions: Positions, keep_headers: bool) -> None:
    """The keystone: serving (blocks alone, caches joined, tail on top) equals training (one forward under the mask)."""
    from grit_app.gritlm.cache.kv_cache import join

    layout = layout_of(tiny_model, positions, keep_headers)
    states = one_forward(tiny_model, layout)
    start, _ = layout.tail_span
    expected = tiny_model.hf_model.lm_head(states[-1])

    texts = [tiny_model.prompts.decode(block.ids[block.header_length :]) for block in layout.blocks]
    caches = [encoding.cache for encoding in tiny_model.encode_iter(texts, return_cache=True)]
    joined = join(caches, tiny_model.rope, positions=positions, keep_headers=keep_headers)
    assert joined.length == layout.cached_length
    assert joined.end == layout.tail_position

    from transformers import DynamicCache

    with tiny_model.lock, torch.inference_mode():
        cache = DynamicCache(
            [(keys[None], values[None]) for keys, values in zip(joined.keys, joined.values, strict=True)]
        )
        output = run_trunk(
            tiny_model.hf_model,
            layout.input_ids()[None, start:],
            is_causal=True,
            past_key_values=cache,
            use_cache=True,
            position_ids=layout.position_ids()[None, start:],
        )
        logits = tiny_model.hf_model.lm_head(output.last_hidden_state[0, -1])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
