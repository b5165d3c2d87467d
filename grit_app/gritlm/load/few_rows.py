"""Linear layers that read their weights as int8 rows where few tokens come in.

Decoding reads every weight once a token, so its speed is that of the memory. The rows of an int8 checkpoint are half of
what their bfloat16 products are: on two cores with AMX a token took 67 µs instead of 148 through a weight of 576 × 960,
104 instead of 194 through 1,536 × 576, and 3.2 ms instead of 7.0 through the head; four tokens 113 instead of 202, and
eight no less. An answer alone: 17 to 22 tokens/s with the products, 30 to 38 with the rows.

Outputs are as near to the exact ones as with the products: 0.24 % against 0.23 % of their length, both by bfloat16's
rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from grit_app.gritlm.load import int8
from grit_app.gritlm.load.size import weight_files

MOST_ROWS: Final = 4
"""Tokens of a forward up to which rows are read; more go through the products."""

TABLE: Final = "model.embed_tokens.weight"


class FewRowsLinear(nn.Linear):
    """A linear layer without bias whose weight is known as int8 rows too."""

    rows: Tensor
    """int8 [out, in]"""

    scales: Tensor
    """bfloat16 [out]"""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 — nn.Linear's own name
        size = input.shape[-1]
        if input.numel() > MOST_ROWS * size or input.dtype != self.scales.dtype or torch.is_grad_enabled():
            return super().forward(input)
        found: Tensor = torch._weight_int8pack_mm(input.reshape(-1, size), self.rows, self.scales)
        return found.view(*input.shape[:-1], -1)


def use_few_rows(hf_model: PreTrainedModel, folder: Path) -> None:
    """Gives the model's linear layers the rows of its int8 checkpoint.

    Nothing happens for other checkpoints, or where the model does not compute in bfloat16 on the CPU. The weights must
    not change afterwards.
    """
    if int8.file_names(folder) is None or hf_model.device.type != "cpu" or hf_model.dtype != torch.bfloat16:
        return
    known = dict(_rows(folder))
    if hf_model.config.tie_word_embeddings and TABLE in known:
        known["lm_head.weight"] = known[TABLE]
    for name, module in hf_model.named_modules():
        if f"{name}.weight" in known and type(module) is nn.Linear and module.bias is None:
            module.__class__ = FewRowsLinear
            module.rows, module.scales = known[f"{name}.weight"]


def rows_bytes(hf_model: PreTrainedModel) -> int:
    """What the rows take beside the weights."""
    return sum(m.rows.nbytes + m.scales.nbytes for m in hf_model.modules() if isinstance(m, FewRowsLinear))


def _rows(folder: Path) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    for path in weight_files(folder):
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            for name in names:
                if name + int8.SCALE in names:
                    # In memory of their own: a file that somebody replaces must not change or end a running program.
                    yield name, (file.get_tensor(name).clone(), file.get_tensor(name + int8.SCALE).bfloat16())
