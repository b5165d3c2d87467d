"""Even out the directions of a model's text vectors, without changing a word of what it writes.

    python -m training.whiten --checkpoint runs/mini/grit/checkpoint-000250 --output_dir runs/mini/whitened
                              --texts '[runs/mini/mixture/train/questions.jsonl]'

A model that has learned to write spends most of its final state on what comes next, and a mean over tokens inherits
those directions: cosines then tell little about meaning. Whitening divides each principal direction of the vectors by a
power of its spread (Su et al. 2021, arXiv 2103.15316). As a rule that is a matrix applied behind the model. Here it
becomes part of the weights, so that any program that loads them gets the better vectors:

    pooled vector    mean(w ∘ x)                x: normalised final state, w: weight of the final norm
    wanted           mean(Bᵀ x)                 B = diag(w) A = Q S Pᵀ; P turns all vectors alike, cosines do not see it
    new model        residual stream turned by Q, final norm weight S, head H diag(w) Q S⁻¹

Normalisation does not see a rotation once its weights are moved into the layers behind it, so every layer computes what
it did, and the logits are the same numbers. Needs a head of its own (untied) and norms on the whole stream alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from grit_app.errors import GritError
from grit_app.gritlm import GritConfig, GritLM
from training.config import require


@dataclass(frozen=True, kw_only=True)
class WhitenConfig:
    checkpoint: Path
    output_dir: Path
    texts: list[Path] = field(default_factory=list)
    """Contrastive files in the form of training.mixture: queries and positives are encoded."""

    limit: int = 3000
    """Rows of each file."""

    power: float = 0.7
    """0 changes nothing, 1 gives all directions the same spread. On development sets recall@1 (SQuADShifts, Natural
    Questions) and STS-B went from 0.344, 0.317, 0.691 to 0.404, 0.405, 0.697 at 0.5 and 0.424, 0.385, 0.701 at 1."""

    floor: float = 0.001
    """Least spread of a direction, as a share of the largest: below it is noise."""

    max_length: int = 192
    threads: int = 2


def whitening(vectors: Tensor, power: float, floor: float) -> Tensor:
    """The symmetric matrix [d, d] that whitens vectors [n, d] by `power`; mean squared length stays about the same."""
    centred = vectors.double() - vectors.double().mean(0)
    spread, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    scale = (spread + floor * spread.max()) ** (-power / 2)
    scale = scale / ((spread * scale.square()).sum() / spread.sum()).sqrt()
    return directions @ torch.diag(scale) @ directions.T


@torch.no_grad()
def fold(model: Any, matrix: Tensor) -> None:
    """Changes the weights so that pooled vectors become `matrix`ᵀ times what they were, up to a rotation.

    matrix   [hidden, hidden], of full rank

    Raises ConfigError for a model with a tied head, biases or norms that this does not cover.
    """
    config = model.config
    require(
        config.model_type in ("mistral", "llama", "qwen2"), f"Models of the kind {config.model_type} cannot be turned."
    )
    require(not config.tie_word_embeddings, "The head is tied to the token table: the vectors cannot change alone.")
    trunk, head = model.get_decoder(), model.get_output_embeddings()
    final = trunk.norm.weight.double()
    turn, scale, _ = torch.linalg.svd(torch.diag(final) @ matrix.double())
    require(float(scale.min()) > 0, "The matrix has no full rank.")
    _set(trunk.embed_tokens.weight, trunk.embed_tokens.weight.double() @ turn)
    for layer in trunk.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            for reader in readers:
                _set(reader.weight, (reader.weight.double() * norm.weight.double()) @ turn)
            norm.weight.fill_(1.0)
        for writer in (attention.o_proj, mlp.down_proj):
            require(writer.bias is None, "A layer writes with a bias, which would have to be turned too.")
            _set(writer.weight, turn.T @ writer.weight.double())
    _set(head.weight, (head.weight.double() * final) @ turn / scale)
    _set(trunk.norm.weight, scale)


def _set(parameter: Tensor, value: Tensor) -> None:
    parameter.copy_(value.to(parameter.dtype))


def read_texts(paths: Sequence[Path], limit: int) -> list[str]:
    """Queries and first positives of the first rows of each file, each text once."""
    texts: dict[str, None] = {}
    for path in paths:
        require(path.is_file(), f"{path} is not there. Make it with: python -m training.mixture --config …")
        with path.open(encoding="utf-8") as lines:
            for row in map(json.loads, islice(lines, limit)):
                texts.setdefault(row["query"])
                texts.setdefault(row["pos"][0])
    return [text for text in texts if text.strip()]


def run(config: WhitenConfig) -> Path:
    """Writes the changed checkpoint as a folder; gives its path."""
    torch.set_num_threads(config.threads)
    texts = read_texts(config.texts, config.limit)
    language_model: Any = AutoModelForCausalLM.from_pretrained(str(config.checkpoint), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(config.checkpoint))
    grit = GritConfig.load(config.checkpoint)
    vectors = GritLM(language_model, tokenizer, grit).encode(texts, normalize=False, max_length=config.max_length)
    require(len(texts) > vectors.shape[1], "There are fewer texts than dimensions. Give more in texts, or raise limit.")
    fold(language_model, whitening(torch.from_numpy(vectors), config.power, config.floor))
    config.output_dir.mkdir(parents=True, exist_ok=True)
    language_model.save_pretrained(str(config.output_dir))
    tokenizer.save_pretrained(str(config.output_dir))
    grit.save(config.output_dir)
    return config.output_dir


def main() -> None:
    try:
        print(f"saved {run(auto_cli(WhitenConfig, as_positional=False))}")
    except GritError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
