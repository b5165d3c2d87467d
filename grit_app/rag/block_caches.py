"""The caches of a layout's blocks: from the library, from the question's own embedding, or made now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from grit_app.gritlm.cache.kv_cache import KVCache, join
from grit_app.gritlm.embed.attention import run_trunk
from grit_app.gritlm.layout import Block, Layout
from grit_app.gritlm.model import GritLM

if TYPE_CHECKING:  # training evaluates with `block_cache` where the document store's packages are not installed
    from grit_app.documents.chunking import Chunk
    from grit_app.documents.library import Library


def block_cache(model: GritLM, block: Block) -> KVCache:
    """Keys and values of a block, encoded alone."""
    if block.attention == "causal":
        return replace(model.causal_cache(list(block.ids)), header_length=block.header_length)
    ids = torch.tensor([list(block.ids)], device=model.device)
    with model.scheduler.turn(work="stock", tokens=len(block.ids)), torch.inference_mode():
        output = run_trunk(model.hf_model, ids, is_causal=False, use_cache=True)
    cache: Any = output.past_key_values
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return KVCache.harvest(layers, 0, list(block.ids), block.header_length, block.attention)


def gather(
    model: GritLM, layout: Layout, library: Library, chunks: Sequence[Chunk], query: KVCache | None
) -> KVCache | None:
    """The joined cache that the layout's tail sees; None for a layout without blocks.

    chunks   whose passages are the layout's document blocks, in the same order
    query    the cache of the question's embedding pass
    """
    remaining = iter(chunks)
    caches = [
        _query_cache(model, block, query)
        if block.role == "query"
        else _chunk_cache(model, block, library, next(remaining))
        for block in layout.blocks
    ]
    if not caches:
        return None
    return join(caches, model.rope, layout.positions, layout.keep_headers)


def _query_cache(model: GritLM, block: Block, query: KVCache | None) -> KVCache:
    if query is not None and query.ids.tolist() == list(block.ids):
        return query
    return block_cache(model, block)


def _chunk_cache(model: GritLM, block: Block, library: Library, chunk: Chunk) -> KVCache:
    """The library's cache if it holds exactly the block's ids."""
    if block.attention == "causal" and not model.config.embedding_is_causal:
        return library.cache_for(chunk, "causal", block.ids)[0]
    if model.prompts.embed(chunk.text).ids == list(block.ids):
        return library.cache_for(chunk)[0]
    return block_cache(model, block)
