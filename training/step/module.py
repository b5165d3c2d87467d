"""The trained module: one `forward` for everything that a step needs, so that DDP and FSDP hooks always run.

A call past the wrapper's `forward` skips gradient reduction under DDP without a word, and fails under FSDP2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grit_app.gritlm.embed.attention import base_model, run_trunk
from grit_app.gritlm.embed.pooling import l2_normalize
from grit_app.gritlm.layout import additive_mask
from training.data.chunk import Chunk, Stream
from training.step.losses import router_balance, weighted_cross_entropy, weighted_kl


class GritModule(nn.Module):
    """A causal language model that also gives vectors.

    language_model   a transformers model, or a peft model around one
    teacher_width    width of a linear layer from the pooled states to a teacher's vectors (for contrastive chunks; not
                     exported); 0: none
    kl_weight        α of the KL to the full causal prompt, for chunks that bring a teacher
    base             the frozen model that generative chunks stay near, or None; base_kl_weight: how near
    router_weight    weight of the router's load-balancing loss; 0 for dense models
    """

    def __init__(
        self,
        language_model: nn.Module,
        *,
        pooling: str = "mean",
        teacher_width: int = 0,
        kl_weight: float = 0.0,
        base: PreTrainedModel | None = None,
        base_kl_weight: float = 0.0,
        router_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.pooling, self.kl_weight, self.router_weight = pooling, kl_weight, router_weight
        self.base_kl_weight = base_kl_weight
        self._base = (base,)  # in a tuple: not a part of this module, so neither trained, sharded nor saved
        self.width = hidden_size = int(self.hf_model.config.hidden_size)
        self.teacher_head = nn.Linear(hidden_size, teacher_width, bias=False) if teacher_width else None
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

    def vector_size(self, stream: Stream) -> int:
        """Width of what `forward` gives for a chunk of this stream."""
        has_head = self.teacher_head is not None and stream == "contrastive"
        return self.width + (self.teacher_head.out_features if has_head and self.teacher_head is not None else 0)

    def forward(self, chunk: Chunk, with_answers: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors [n, d] (float32, L2-normalised) of the spans; the weighted loss; [Σ weight · −log p, Σ router].

        Behind the vectors of contrastive chunks come the head's guesses of a teacher's: [n, d + teacher_width].

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
            if self.base_kl_weight > 0 and chunk.stream == "generative" and not chunk.is_dummy:
                loss = loss + self.base_kl_weight * self._distance_to_base(hidden, chunk)
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

    def _run(self, chunk: Chunk, with_router: bool = False, model: PreTrainedModel | None = None) -> Any:
        mask = chunk.attention_mask
        extra: dict[str, Any] = {}
        if chunk.segments is not None:
            extra["segments"] = chunk.segments
            # transformers takes a mask of four dimensions as it is, and builds none of [t, t].
            mask = chunk.input_ids.new_ones(1, 1, 1, 1, dtype=torch.bool)
        elif mask is not None and mask.dim() == 4 and self.config._attn_implementation == "eager":
            mask = additive_mask(mask, torch.float32)  # eager adds it: a bool mask would be silently wrong
        if chunk.position_ids is not None:
            extra["position_ids"] = chunk.position_ids
        if with_router:
            extra["output_router_logits"] = True
        return run_trunk(
            model or self.hf_model,
            chunk.input_ids,
            is_causal=chunk.is_causal,
            attention_mask=mask,
            use_cache=False,
            **extra,
        )

    def _pooled(self, hidden: Tensor, chunk: Chunk) -> Tensor:
        if chunk.pooling is None:
            return hidden.new_zeros(0, self.vector_size(chunk.stream), dtype=torch.float32)
        pooling = chunk.pooling
        # Autocast would pool in bfloat16.
        with torch.autocast(hidden.device.type, enabled=False):
            states = hidden.flatten(0, 1)[pooling.places].float() * pooling.weights[:, None]
            sums = states.new_zeros(len(chunk.spans), states.shape[1]).index_add(0, pooling.numbers, states)
            vectors = l2_normalize(sums)
            if self.teacher_head is None or chunk.stream != "contrastive":
                return vectors
            return torch.cat([vectors, nn.functional.linear(vectors, self.teacher_head.weight.float())], dim=1)

    def _answer_loss(self, hidden: Tensor, chunk: Chunk) -> Tensor:
        assert chunk.predictors is not None and chunk.labels is not None and chunk.weights is not None
        states = hidden.flatten(0, 1)[chunk.predictors]  # only these positions reach the LM head
        return weighted_cross_entropy(states, chunk.labels, chunk.weights, self.hf_model.get_output_embeddings())

    def _distance_to_teacher(self, hidden: Tensor, chunk: Chunk) -> Tensor:
        assert chunk.teacher is not None and chunk.teacher.predictors is not None
        assert chunk.predictors is not None and chunk.weights is not None
        head: Any = self.hf_model.get_output_embeddings()
        with torch.no_grad():
            teacher = self._run(chunk.teacher).last_hidden_state.flatten(0, 1)[chunk.teacher.predictors]
        return weighted_kl(hidden.flatten(0, 1)[chunk.predictors], teacher, chunk.weights, head, head)

    def _distance_to_base(self, hidden: Tensor, chunk: Chunk) -> Tensor:
        (base,) = self._base
        assert base is not None and chunk.predictors is not None and chunk.weights is not None
        with torch.no_grad():
            kept = self._run(chunk, model=base).last_hidden_state.flatten(0, 1)[chunk.predictors]
        heads: list[Any] = [model.get_output_embeddings() for model in (self.hf_model, base)]
        return weighted_kl(hidden.flatten(0, 1)[chunk.predictors], kept, chunk.weights, *heads)
