"""GGUF files (llama.cpp's form of a model) through transformers' own reader: weights, settings, tokenizer in one file.

Its quantised weights are multiplied out while the model is loaded, and computed with as any others: a file of 4 GB in
4 bits takes the memory of the unquantised model. `--quantization 4bit` quantises them again, for the model at rest.

A `tokenizer.json` beside the file is used in place of the file's own tokenizer, whose conversion can lose settings
(GritLM-7B's ids depend on one). A `grit_config.json` beside it is read as in a folder.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from grit_app.gritlm.errors import ModelError

TABLES: Final = ("token_embd.", "output.")


def is_gguf(path: str | Path) -> bool:
    """Whether a path names a GGUF file rather than a folder."""
    return str(path).lower().endswith(".gguf")


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """llama.cpp's name → shape of every tensor, from the header. Raises ModelError for a file that is not whole."""
    from gguf import GGUFReader  # reads settings of its own when it is imported; few models need it

    try:
        reader = GGUFReader(str(file))
        return {tensor.name: [int(size) for size in tensor.shape] for tensor in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(
            f"{file} is not a whole GGUF file ({_first_line(error)}). Copy or download the model again."
        ) from error


def is_linear(name: str, shape: list[int]) -> bool:
    """Whether 8-bit and 4-bit loading shrink this tensor: weights of linear layers, not of the tables."""
    return len(shape) >= 2 and name.endswith(".weight") and not name.startswith(TABLES)


def cache_numbers(file: Path) -> int:
    """Keys and values of one token in all layers, by the shapes of the layers that make them."""
    makers = ("attn_k.weight", "attn_v.weight")
    return sum(shape[-1] for name, shape in tensor_shapes(file).items() if name.endswith(makers))


def read_config(file: Path) -> dict[str, Any]:
    """What config.json of a folder would hold."""
    values: dict[str, Any] = AutoConfig.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
    ).to_dict()
    for name in ("quantization_config", "_name_or_path", "name_or_path"):
        values.pop(name, None)
    return values


def read_state(file: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Name → tensor in `dtype`, multiplied out, under transformers' names."""
    with redirect_stderr(io.StringIO()):  # its progress bar has no switch (transformers 5.23)
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=dtype, local_files_only=True, trust_remote_code=False
        )
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen:  # a tied head is its table a second time
            state[name] = value
        seen.add(value.data_ptr())
    return state


def read_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """The file's own tokenizer, right-padding, with the tokens that the file has.

    transformers (5.23) adds special tokens that it expects of the architecture; those would have no row in the table.
    """
    made: Any = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
    )
    state = json.loads(made.backend_tokenizer.to_str())
    rows = len(state["model"]["vocab"])  # a table for BPE, a list for the sentencepiece kind
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < rows]
    backend = Tokenizer.from_str(json.dumps(state))
    roles = {role: getattr(made, role) for role in ("bos_token", "eos_token", "unk_token", "pad_token")}
    known = {
        role: token for role, token in roles.items() if token is not None and backend.token_to_id(token) is not None
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, padding_side="right", clean_up_tokenization_spaces=False, **known
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
