"""Bidirectional or causal attention in one model, and the proof of which one ran.

transformers (5.2 and later) switches a decoder to bidirectional attention by `is_causal=False` in the call of its base
model. It does so by writing `config.is_causal` for the time of the call, which is shared between threads: a causal call
in another thread comes out bidirectional, and the value can stay behind. So two rules hold everywhere in this project:
every forward states `is_causal`, and every forward of this kind is a turn for "stock" work at `GritLM.scheduler`, of
which one is under way at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from grit_app.gritlm.errors import ModelError

PROOF_TOKENS = 8


def base_model(hf_model: PreTrainedModel) -> PreTrainedModel:
    """The trunk of a causal language model: its layers and final norm, without the head. Adapters stay in place."""
    trunk: PreTrainedModel = hf_model.get_decoder()
    return trunk


def run_trunk(
    hf_model: PreTrainedModel,
    input_ids: Tensor,
    *,
    is_causal: bool,
    attention_mask: Tensor | None = None,
    use_cache: bool = False,
    **kwargs: Any,
) -> BaseModelOutputWithPast:
    """One forward through the trunk; the caller holds a turn (scheduler.py).

    input_ids       [batch, seq], right-padded
    attention_mask  [batch, seq], 0 for padding; None where nothing is padded, which spares building a mask
    """
    output: BaseModelOutputWithPast = base_model(hf_model)(
        input_ids=input_ids, attention_mask=attention_mask, is_causal=is_causal, use_cache=use_cache, **kwargs
    )
    return output


@torch.inference_mode()
def first_position_moves(hf_model: PreTrainedModel, *, is_causal: bool, padded: bool = False) -> bool:
    """Whether the first token's state depends on the last token: True means that bidirectional attention really ran.

    padded   go through the path with an attention mask, which builds other masks than the path without

    The caller holds a turn. Two tiny forwards, whose last tokens differ.
    """
    vocabulary = int(hf_model.config.get_text_config().vocab_size)
    ids = torch.arange(3, 3 + PROOF_TOKENS, device=hf_model.device).remainder(vocabulary).repeat(2, 1)
    ids[1, -1] = (ids[1, -1] + vocabulary // 2) % vocabulary
    mask = None
    if padded:
        ids = torch.nn.functional.pad(ids, (0, 3))
        mask = (torch.arange(ids.shape[1], device=ids.device) < PROOF_TOKENS).long().repeat(2, 1)
    states: Any = run_trunk(hf_model, ids, is_causal=is_causal, attention_mask=mask).last_hidden_state
    first = states[:, 0].float()
    scale = first.abs().max().clamp_min(1e-9)
    return bool((first[0] - first[1]).abs().max() / scale > 1e-4)


def prove_attention(hf_model: PreTrainedModel, *, with_bidirectional: bool) -> None:
    """Raises ModelError if the model's class does not switch between causal and bidirectional attention on demand."""
    name = type(hf_model).__name__
    for padded in (False, True):
        if first_position_moves(hf_model, is_causal=True, padded=padded):
            raise ModelError(
                f"{name} lets a token see later ones even when asked for causal attention; it cannot be used here."
            )
        if with_bidirectional and not first_position_moves(hf_model, is_causal=False, padded=padded):
            raise ModelError(
                f"{name} ignores the request for bidirectional attention, so its embeddings would be wrong. Use a "
                "model of "
                "the Mistral, Mixtral, Llama, Qwen2 or Qwen3 family, or attention code cccc."
            )
