"""A device for every law: the CPU always, and a CUDA device under `-m gpu` where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

HAS_CUDA = torch.cuda.is_available()

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device")]),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def load_on(tiny_model_folder: Callable[..., Path], device: str) -> Callable[..., Any]:
    """`load_on(family, quantization="none", dtype="float32")` → a loaded model on the device of the test."""
    from grit_app.gritlm import GritLM

    def load(family: str = "mistral", quantization: str = "none", dtype: str = "float32", **changes: Any) -> Any:
        return GritLM.from_pretrained(tiny_model_folder(family, **changes), quantization, device, dtype)

    return load
