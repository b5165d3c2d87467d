"""Joined caches against one forward of the same layout under its mask and positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grit_app.gritlm.errors import InputError, ModelError
from grit_app.gritlm.kv_cache import KVCache, join
from grit_app.gritlm.layout import Block, Layout, Positions, additive_mask
from grit_app.gritlm.rope import Rope
from grit_app.gritlm.runtime import Decoder
from tests.conftest import FAMILIES, tiny_hf_model

TOLERANCE = 1e-4
HEADER = [1, 40, 41, 42]


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 512, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def document(length: int, seed: int, header: list[int] = HEADER) -> Block:
    return Block([*header, *random_ids(length, seed)], header_length=len(header))


@torch.inference_mode()
def encode(hf_model: Any, block: Block) -> KVCache:
    """The cache of one block, from a plain pass of the stock model."""
    output = hf_model.model(
        torch.tensor([block.ids]), is_causal=block.attention == "causal", use_cache=True, return_dict=True
    )
    layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
    return KVCache.harvest(layers, 0, block.ids, block.header_length, block.attention)


@torch.inference_mode()
def one_pass(hf_model: Any, layout: Layout) -> Tensor:
    """Logits [tail, vocabulary] of the whole layout in one masked forward."""
    mask = additive_mask(layout.mask(), torch.float32)[None, None]
    logits = hf_model(
        layout.input_ids()[None],
        attention_mask=mask,
        position_ids=layout.position_ids()[None],
        use_cache=False,
        is_causal=True,
    ).logits[0]
    return logits[slice(*layout.tail_span)]


def cached(hf_model: Any, layout: Layout) -> Tensor:
    """The same, from the blocks' own caches, joined."""
    cache = join([encode(hf_model, block) for block in layout.blocks], Rope.of(hf_model), layout.positions, layout.keep_headers)
    assert cache.length == layout.cached_length
    decoder = Decoder(hf_model)
    space = decoder.workspace(cache, len(layout.tail))
    return decoder.project(decoder.hidden(list(layout.tail), space)[0])


def some_layout(documents: int, positions: Positions = "consecutive", **changes: Any) -> Layout:
    lengths = [9, 14, 6, 11]
    blocks = [document(lengths[index], seed=index) for index in range(documents)]
    return Layout(blocks, random_ids(8, seed=99), positions=positions, **changes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("documents", [1, 2, 3, 4])
def test_joined_documents_equal_one_masked_forward(family: str, documents: int) -> None:
    hf_model = tiny_hf_model(family)
    layout = some_layout(documents)
    expected = one_pass(hf_model, layout)
    assert expected.std() > 0.5, "flat logits would hide errors"
    assert (cached(hf_model, layout) - expected).abs().max() < TOLERANCE
