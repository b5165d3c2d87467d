"""Training against 8-bit caches: the tail reads block keys and values rounded as serving packs them.

Inside a block attention uses the unrounded numbers, as when a cache is made; only the rows of the tail read rounded
ones. A block is rounded at the positions at which it is encoded alone, then moved, as serving does. The rounding is
added as a constant, so gradients pass straight through it (Bengio et al. 2013, arXiv 1308.3432).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grit_app.gritlm.cache.pack import pack_keys, pack_values, unpack_keys, unpack_values
from grit_app.gritlm.cache.rope import Rope

NAME = "sdpa_fake_int8"

RoundedBlock = tuple[int, int, int, int]
"""(row of the batch, first column, last column + 1, how far the block was moved from position 0)"""


def use_fake_int8(hf_model: PreTrainedModel) -> None:
    """Makes the model's attention understand `fake_int8`; without that argument nothing changes."""
    rope = Rope.of(hf_model)

    def attention(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        fake_int8: tuple[Tensor, list[RoundedBlock]] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        exact, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        if fake_int8 is None:
            return exact, None
        tail_rows, blocks = fake_int8
        key_error, value_error = rounding(key, value, blocks, rope)
        read, _ = sdpa_attention_forward(module, query, key + key_error, value + value_error, attention_mask, **kwargs)
        return torch.where(tail_rows[:, :, None, None], read, exact), None

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    hf_model.set_attn_implementation(NAME)


@torch.no_grad()
def rounding(key: Tensor, value: Tensor, blocks: list[RoundedBlock], rope: Rope) -> tuple[Tensor, Tensor]:
    """What storing the blocks in 8 bits adds to keys and values [b, kv_heads, t, d]; 0 outside the blocks."""
    key_error, value_error = torch.zeros_like(key), torch.zeros_like(value)
    for row, start, stop, shift in blocks:
        keys, values = key[row, :, start:stop], value[row, :, start:stop]
        stored = rope.move(keys.contiguous(), -shift)
        loaded = rope.move(unpack_keys(*pack_keys(stored), key.dtype), shift)
        key_error[row, :, start:stop] = loaded - keys
        value_error[row, :, start:stop] = unpack_values(*pack_values(values), value.dtype) - values
    return key_error, value_error
