"""How far packing a cache moves what the model would write next: seen in any model, also where scores stay the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from grit_app.gritlm import GritLM, KVCache
from grit_app.gritlm.kv_pack import Scheme

PASSAGES = 25


def next_token_drift(model: GritLM, pairs: Sequence[tuple[str, str]], scheme: Scheme) -> dict[str, float]:
    """`{next_token_kl, same_top_token}` of a packed cache beside the native one.

    pairs   (passage, question): the passage is cached by an embedding pass, the question read behind it

    Means over passages of the means over the question's tokens: KL(native ‖ packed) in nats, and the percentage of
    tokens after which the most likely next one is the same.
    """
    found = []
    for passage, question in pairs:
        (encoding,) = model.encode_iter([passage], return_cache=True)
        assert encoding.cache is not None
        ids = torch.tensor([model.prompts.continuation(f"\n{question}\n")], device=model.device)
        native = _log_probabilities(model, encoding.cache, ids)
        packed = _log_probabilities(model, encoding.cache.packed(scheme), ids)
        kl = (native.exp() * (native - packed)).sum(-1).mean()
        same = (native.argmax(-1) == packed.argmax(-1)).double().mean()
        found.append((float(kl), 100 * float(same)))
    kls, tops = zip(*found, strict=True)
    return {"next_token_kl": sum(kls) / len(kls), "same_top_token": sum(tops) / len(tops)}


@torch.inference_mode()
def _log_probabilities(model: GritLM, cache: KVCache, ids: Tensor) -> Tensor:
    """[tokens, vocabulary] float32, of each next token."""
    past = DynamicCache()
    for index in range(cache.shape[0]):
        keys, values = cache.layer(index, model.device)
        past.update(keys[None], values[None], index)
    with model.lock:
        logits = model.hf_model(input_ids=ids, past_key_values=past, is_causal=True).logits[0]
    return logits.float().log_softmax(-1)
