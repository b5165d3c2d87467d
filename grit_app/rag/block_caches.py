"""The caches of a layout's blocks: from the library, from the question's own embedding, or made now."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
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
    from grit_app.rag.stages import StageTimes


def block_cache(model: GritLM, block: Block, cancel: threading.Event | None = None) -> KVCache:
    """Keys and values of a block, encoded alone."""
    if block.attention == "causal":
        return replace(model.causal_cache(list(block.ids), cancel), header_length=block.header_length)
    ids = torch.tensor([list(block.ids)], device=model.device)
    with model.scheduler.turn(cancel, work="stock", tokens=len(block.ids)), torch.inference_mode():
        output = run_trunk(model.hf_model, ids, is_causal=False, use_cache=True)
    cache: Any = output.past_key_values
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return KVCache.harvest(layers, 0, list(block.ids), block.header_length, block.attention)


def gather(
    model: GritLM,
    layout: Layout,
    library: Library | None = None,
    chunks: Sequence[Chunk] = (),
    query: KVCache | None = None,
    stages: StageTimes | None = None,
    cancel: threading.Event | None = None,
) -> KVCache | None:
    """The joined cache that the layout's tail sees; None for a layout without blocks. Raises Cancelled.

    library  where caches of the passages are kept; None: every block is read now
    chunks   whose passages are the layout's document blocks, in the same order
    query    the cache of the question's embedding pass
    """
    if not layout.blocks:
        return None
    remaining = iter(chunks)
    with stages.stage("load") if stages else nullcontext():
        caches = []
        for block in layout.blocks:
            chunk = next(remaining, None) if block.role == "document" else None
            if library is not None and chunk is not None:
                caches.append(_chunk_cache(model, block, library, chunk, cancel))
            elif query is not None and block.role == "query" and query.ids.tolist() == list(block.ids):
                caches.append(query)
            else:
                caches.append(block_cache(model, block, cancel))
    with stages.stage("join") if stages else nullcontext():
        return join(caches, model.rope, layout.positions, layout.keep_headers)


def _chunk_cache(
    model: GritLM, block: Block, library: Library, chunk: Chunk, cancel: threading.Event | None
) -> KVCache:
    """The library's cache if it holds exactly the block's ids."""
    if block.attention == "causal" and not model.config.embedding_is_causal:
        return library.cache_for(chunk, "causal", block.ids, cancel=cancel)[0]
    if block.header_length and block.ids[0] == model.prompts.bos_id:  # not so the published form without BOS
        return library.cache_for(chunk, "bidirectional", block.ids, cancel=cancel)[0]
    return block_cache(model, block, cancel)
