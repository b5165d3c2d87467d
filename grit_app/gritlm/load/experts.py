"""Mixtral with a linear layer of its own for each matrix of each expert, so that quantisation and adapters reach them.

transformers (5.23) stacks the experts of a layer into two tensors, and bitsandbytes replaces linear layers only: of
GritLM-8x7B's 46.7 B parameters it would leave 45.1 B at full size. Apart, they become bitsandbytes' layers like any
others, and only the experts that a token is sent to are computed: a single token is multiplied with their 4-bit weights
as they are (on a GPU), several tokens with one matrix at a time, expanded to 117 MB.

Memory while loading: transformers reads and quantises one tensor of the checkpoint after the other. The peak is the
quantised size and one tensor at full precision: of the published files, in bfloat16, the 117 MB of one expert's matrix;
of files that hold the experts stacked the 1.9 GB of one layer's `gate_up_proj`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM


class Expert(nn.Module):
    """One gated MLP. The names are those of dense models, which adapters look for; peft takes w1 … w3 for stacked."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(
            config.hidden_size, config.intermediate_size, bias=False
        )  # w1 of the published files
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)  # w3
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)  # w2
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return result


class SeparateExperts(nn.ModuleList):
    """Takes the place of transformers' MixtralExperts."""

    def __init__(self, config: Any) -> None:
        super().__init__(Expert(config) for _ in range(config.num_local_experts))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """[tokens, hidden] from [tokens, hidden] and each token's k experts and their shares, both [tokens, k]."""
        chosen = top_k_index.flatten()
        order = chosen.argsort(stable=True)
        counts = chosen.bincount(minlength=len(self)).tolist()  # the only time that the CPU waits for a GPU
        output = torch.zeros_like(hidden_states)
        for expert, slots in zip(self, order.split(counts), strict=True):
            if len(slots):
                tokens = slots // top_k_index.shape[1]
                weighted = expert(hidden_states[tokens]) * top_k_weights.flatten()[slots, None]
                # An expert gets a token once at most, so the order of these additions is always the same.
                output.index_add_(0, tokens, weighted.to(output.dtype))
        return output


class SplitExperts(ConversionOps):
    """A stacked tensor [experts, rows, columns] → the matrices of every expert, each [rows / matrices, columns]."""

    def __init__(self, *matrices: str) -> None:
        self.matrices = matrices

    def convert(self, input_dict: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        ((stacked,),) = input_dict.values()
        return {
            f".experts.{number}.{matrix}.weight": part
            for number, expert in enumerate(stacked)
            for matrix, part in zip(self.matrices, expert.chunk(len(self.matrices)), strict=True)
        }


PUBLISHED_NAMES = [
    WeightRenaming(".block_sparse_moe.", ".mlp."),
    WeightRenaming(".w1.", ".gate_proj."),
    WeightRenaming(".w3.", ".up_proj."),
    WeightRenaming(".w2.", ".down_proj."),
]
STACKED_NAMES = [
    WeightConverter(".experts.gate_up_proj", ".experts.0.gate_proj.weight", [SplitExperts("gate_proj", "up_proj")]),
    WeightConverter(".experts.down_proj", ".experts.0.down_proj.weight", [SplitExperts("down_proj")]),
]


class SeparateMixtralForCausalLM(MixtralForCausalLM):
    """MixtralForCausalLM with its experts apart. Computes the same; reads published and stacked files."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for layer in self.model.layers:  # on the meta device: the stacked tensors never had memory
            layer.mlp.experts = SeparateExperts(config)

    def save_pretrained(self, save_directory: Any, *arguments: Any, **settings: Any) -> None:
        """Writes what the stock class writes: the published layout under its name."""
        self._weight_conversions = PUBLISHED_NAMES  # whatever the layout that was read
        super().save_pretrained(save_directory, *arguments, **settings)
        self.config.architectures = [MixtralForCausalLM.__name__]
        self.config.save_pretrained(save_directory)


register_checkpoint_conversion_mapping(
    SeparateMixtralForCausalLM.__name__, PUBLISHED_NAMES + STACKED_NAMES, overwrite=True
)
