"""The trained module: one `forward` for everything that a step needs, so that DDP and FSDP hooks always run.

A call past the wrapper's `forward` skips gradient reduction under DDP without a word, and fails under FSDP2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grit_app.gritlm.embed.attention import base_model, run_trunk
from grit_app.gritlm.embed.pooling import l2_normalize, pool
from grit_app.gritlm.layout import additive_mask
from training.data.collate import Chunk
from training.step.losses import router_balance, weighted_cross_entropy, weighted_kl


class GritModule(nn.Module):
    """A causal language model that also gives vectors.

    language_model   a transformers model, or a peft model around one
    projection       width of the linear layer behind the pooling, or None
    kl_weight        α of the KL to the full causal prompt, for chunks that bring a teacher
    router_weight    weight of the router's load-balancing loss; 0 for dense models
    """

    def __init__(
        self,
        language_model: nn.Module,
        *,
        pooling: str = "mean",
        projection: int | None = None,
        kl_weight: float = 0.0,
        router_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.pooling, self.kl_weight, self.router_weight = pooling, kl_weight, router_weight
        hidden_size = int(self.hf_model.config.hidden_size)
        self.projection = nn.Linear(hidden_size, projection) if projection else None
        self._no_split_modules = list(getattr(self.hf_model, "_no_split_modules", None) or [])  # where FSDP wraps
        # After peft wrapping `.model` is the language model, whose output are logits: pooling those would go unnoticed.
        trunk: Any = base_model(self.hf_model)
        assert trunk.norm.weight.shape[-1] == hidden_size

    @property
    def hf_model(self) -> PreTrainedModel:
        """The transformers model, adapters inside."""
        model: Any = self.language_model
        return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model

    @property
    def config(self) -> Any:
        """The transformers configuration (accelerate asks for it)."""
        return self.hf_model.config

    @property
    def vector_size(self) -> int:
        return self.projection.out_features if self.projection else int(self.hf_model.config.hidden_size)

    def forward(self, chunk: Chunk, with_answers: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors [n, d] (float32, L2-normalised) of the spans; the weighted loss; [Σ weight · −log p, Σ router].

        with_answers   False: vectors alone, without the LM head
        """
        wants_loss = with_answers and chunk.labels is not None
        wants_router = wants_loss and self.router_weight > 0 and not chunk.is_dummy
        output = self._run(chunk, wants_router)
        hidden: Tensor = output.last_hidden_state
        vectors = self._pooled(hidden, chunk)
        loss = hidden.new_zeros((), dtype=torch.float32)
        parts = torch.zeros(2, device=hidden.device)
        if wants_loss:
            loss = cross_entropy = self._answer_loss(hidden, chunk)
            parts[0] = cross_entropy.detach()
            if chunk.teacher is not None and self.kl_weight > 0:
                loss = loss + self.kl_weight * self._distance_to_teacher(hidden, chunk)
            if wants_router:
                assert chunk.samples is not None and chunk.sample_weights is not None
                balance = router_balance(
                    output.router_logits,
                    chunk.samples.flatten(),
                    chunk.sample_weights,
                    experts_per_token=int(self.config.num_experts_per_tok),
                )
                parts[1] = balance.detach()
                loss = loss + self.router_weight * balance
        return vectors, loss, parts

    def _run(self, chunk: Chunk, with_router: bool = False) -> Any:
        mask = chunk.attention_mask
        if mask is not None and mask.dim() == 4 and self.config._attn_implementation == "eager":
            mask = additive_mask(mask, torch.float32)  # eager adds it: a bool mask would be silently wrong
        extra: dict[str, Any] = {}
        if chunk.position_ids is not None:
            extra["position_ids"] = chunk.position_ids
        if with_router:
            extra["output_router_logits"] = True
        if chunk.tail_rows is not None:
            extra["fake_int8"] = (chunk.tail_rows, chunk.rounded_blocks)
        return run_trunk(
            self.hf_model, chunk.input_ids, is_causal=chunk.is_causal, attention_mask=mask, use_cache=False, **extra
        )

    def _pooled(self, hidden: Tensor, chunk: Chunk) -> Tensor:
        if not chunk.spans:
            return hidden.new_zeros(0, self.vector_size, dtype=torch.float32)
        # Autocast would pool in bfloat16.
        with torch.autocast(hidden.device.type, enabled=False):
            if [span[:2] for span in chunk.spans] == [(row, 0) for row in range(len(hidden))]:
                vectors = self._pool_rows(hidden, chunk)
            else:
                pieces = []
                for row, start, sample, stop in chunk.spans:
                    mask = torch.arange(start, stop, device=hidden.device) >= sample
                    pieces.append(pool(hidden[row : row + 1, start:stop], mask[None], self.pooling))
                vectors = torch.cat(pieces)
            if self.projection is not None:
                vectors = nn.functional.linear(vectors, self.projection.weight.float(), self.projection.bias.float())
            return l2_normalize(vectors)

    def _pool_rows(self, hidden: Tensor, chunk: Chunk) -> Tensor:
        """One span a row, each starting at the row's first token: one product for all."""
        spans = torch.tensor(chunk.spans, device=hidden.device)
        places = torch.arange(hidden.shape[1], device=hidden.device)
        mask = (places >= spans[:, 2:3]) & (places < spans[:, 3:4])
        return pool(hidden, mask, self.pooling)

    def _answer_loss(self, hidden: Tensor, chunk: Chunk) -> Tensor:
        assert chunk.predictors is not None and chunk.labels is not None and chunk.weights is not None
        states = hidden.flatten(0, 1)[chunk.predictors]  # only these positions reach the LM head
        return weighted_cross_entropy(states, chunk.labels, chunk.weights, self.hf_model.get_output_embeddings())

    def _distance_to_teacher(self, hidden: Tensor, chunk: Chunk) -> Tensor:
        assert chunk.teacher is not None and chunk.teacher.predictors is not None
        assert chunk.predictors is not None and chunk.weights is not None
        head = self.hf_model.get_output_embeddings()
        with torch.no_grad():
            teacher = self._run(chunk.teacher).last_hidden_state.flatten(0, 1)[chunk.teacher.predictors]
            logits = head(teacher)
        return weighted_kl(hidden.flatten(0, 1)[chunk.predictors], logits, chunk.weights, head)
