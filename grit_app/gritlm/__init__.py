"""The model: formats, layouts, embedding, generation, KV caches. Imports nothing else of the project.

    from grit_app.gritlm import GritLM
    model = GritLM.from_pretrained("assets/gritlm-135m")
    vectors = model.encode(["a text", "another"])
    answer = model.generate([{"role": "user", "content": "Hi"}])

The names below are loaded on first use, so that reading settings or an error class does not import torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Read by huggingface_hub when it is imported, so it must be set before: nothing is reported to anyone by default.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from grit_app.gritlm.cache.kv_cache import KVCache as KVCache
    from grit_app.gritlm.cache.kv_cache import join as join
    from grit_app.gritlm.grit_config import GritConfig as GritConfig
    from grit_app.gritlm.layout import Block as Block
    from grit_app.gritlm.layout import Layout as Layout
    from grit_app.gritlm.model import Encoding as Encoding
    from grit_app.gritlm.model import GritLM as GritLM
    from grit_app.gritlm.prompts import Prompts as Prompts
    from grit_app.gritlm.write.decoding import GenerationStats as GenerationStats
    from grit_app.gritlm.write.decoding import Sampling as Sampling
    from grit_app.gritlm.write.generation import Conversation as Conversation
    from grit_app.gritlm.write.quote import QuoteConstraint as QuoteConstraint

_HOMES = {
    "Block": "layout",
    "Conversation": "write.generation",
    "Encoding": "model",
    "GenerationStats": "write.decoding",
    "GritConfig": "grit_config",
    "GritLM": "model",
    "KVCache": "cache.kv_cache",
    "Layout": "layout",
    "Prompts": "prompts",
    "QuoteConstraint": "write.quote",
    "Sampling": "write.decoding",
    "join": "cache.kv_cache",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
