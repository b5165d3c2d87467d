"""The attention kernels that torch may choose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from grit_app.gritlm.load import loading


def test_loading_leaves_out_the_attention_that_plans_for_each_length(tiny_model_folder: Callable[..., Path]) -> None:
    """cuDNN's plans cost 50 ms a new length on a GPU: each prompt, and each decoded token, has one."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    loading.load_hf_model(tiny_model_folder(), device=torch.device("cpu"), dtype=torch.float32, quantization="none")
    assert not torch.backends.cuda.cudnn_sdp_enabled()
