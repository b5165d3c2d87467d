"""How far packing a cache moves what the model would write next: seen in any model, also where scores stay the same."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from grit_app.gritlm import GritLM, KVCache
from grit_app.gritlm.cache.pack import Scheme
from grit_app.gritlm.write.runtime import Decoder

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
        ids = model.prompts.continuation(f"\n{question}\n")
        native = _log_probabilities(model, encoding.cache, ids)
        packed = _log_probabilities(model, encoding.cache.packed(scheme), ids)
        kl = (native.exp() * (native - packed)).sum(-1).mean()
        same = (native.argmax(-1) == packed.argmax(-1)).double().mean()
        found.append((float(kl), 100 * float(same)))
    kls, tops = zip(*found, strict=True)
    return {"next_token_kl": sum(kls) / len(kls), "same_top_token": sum(tops) / len(tops)}


def _log_probabilities(model: GritLM, cache: KVCache, ids: Sequence[int]) -> Tensor:
    """[tokens, vocabulary] float32, of each next token, by the path that answers take."""
    decoder = Decoder(model.hf_model)
    space = decoder.workspace(cache, len(ids))
    try:
        with model.lock:
            return decoder.project(decoder.hidden(ids, space)[0]).log_softmax(-1)
    finally:
        space.close()
