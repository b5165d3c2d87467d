"""What embedding and writing need of a loaded model."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grit_app.gritlm.budget import Budget
from grit_app.gritlm.cache.rope import Rope
from grit_app.gritlm.embed.attention import base_model
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.load.loading import check_vocabulary
from grit_app.gritlm.prompts import Prompts
from grit_app.gritlm.scheduler import Scheduler


class Loaded:
    """A loaded model with its formats. Every forward of its weights, in any thread, is a turn at `scheduler`.

    memory   the budget of what is kept to be faster: caches of documents, of chats, of the server's callers
    """

    def __init__(
        self,
        hf_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: GritConfig | None = None,
        *,
        name: str = "",
        identity: str = "",
        quantization: str = "none",
    ) -> None:
        """Wraps a model that is loaded already. `identity` must change whenever the numbers that the model gives do.

        Raises ModelError if the tokenizer has more tokens than the model's table has rows.
        """
        check_vocabulary(hf_model, tokenizer, name or type(hf_model).__name__)
        self.hf_model = hf_model
        self.tokenizer = tokenizer
        self.config = config or GritConfig()
        self.prompts = Prompts(tokenizer)
        self.rope = Rope.of(hf_model)
        self.name = name
        self.identity = identity
        self.quantization = quantization
        self.writes_at = ""
        """Address of another server that writes for this model; empty: it writes by itself, from caches too."""

        self.scheduler = Scheduler()
        self.memory = Budget.of(hf_model.device)
        self.hidden_size = int(hf_model.config.hidden_size)
        self.context = int(hf_model.config.max_position_embeddings)
        breathe = self.scheduler.breathe
        for layer in base_model(hf_model).layers:  # type: ignore[union-attr]  # a list of modules
            layer.register_forward_pre_hook(lambda *_: breathe())

    @property
    def lock(self) -> Scheduler:
        """`with model.lock:` is a turn of the thread's own job."""
        return self.scheduler

    @property
    def device(self) -> torch.device:
        """Where input ids go."""
        return self.hf_model.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of states, and so of caches."""
        return self.hf_model.dtype
