"""QLoRA on a mixture of experts: adapters stand beside the 4-bit experts, and are exported into the stock model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from grit_app.gritlm.load.loading import load_hf_model
from training.config import AdapterConfig
from training.export import load_merged
from training.run.adapters import add_adapters, check_adapters_move

CPU = torch.device("cpu")
IDS = torch.arange(3, 67)[None]


# peft 0.21 asks transformers 5.23 by a name that is on its way out.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_of_quantized_experts_become_a_stock_model(
    tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Trained beside NF4, merged into full precision, saved, and read by the stock class: the same logits."""
    pytest.importorskip("bitsandbytes")
    # Widths of whole blocks of 32: what bitsandbytes packs for processors with bfloat16 units.
    folder = tiny_model_folder("mixtral", hidden_size=64, intermediate_size=64, head_dim=16, initializer_range=0.05)
    config = AdapterConfig(method="qlora", rank=2, alpha=4)
    base = load_hf_model(folder, device=CPU, dtype=torch.float32, quantization="4bit")
    adapted: Any = add_adapters(base, config, seed=0)
    experts = [name for name, _ in adapted.named_parameters() if "lora_B" in name and ".experts." in name]
    assert len(experts) == 2 * 4 * 3
    adapted.train()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        adapted(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    check_adapters_move(adapted)

    trained = {f"language_model.{n}": t.clone() for n, t in adapted.state_dict().items() if "lora_" in n}
    save_file(trained, tmp_path / "adapters.safetensors")
    recipe = {"adapter": dataclasses.asdict(config), "model": {"path": str(folder)}}
    merged = load_merged(tmp_path, recipe)
    merged.save_pretrained(tmp_path / "exported")
    stock = load_hf_model(tmp_path / "exported", device=CPU, dtype=torch.float32, quantization="none")
    assert type(stock).__name__ == "MixtralForCausalLM"
    original = load_hf_model(folder, device=CPU, dtype=torch.float32, quantization="none")
    with torch.inference_mode():
        exported, trained_here, before = (m.eval()(IDS).logits for m in (stock, adapted, original))
        torch.testing.assert_close(exported, merged(IDS).logits)
    # Adapters moved the model far, and where the exported one now is: off by no more than what 4 bits round.
    assert float((exported - trained_here).norm()) < 0.3 * float((exported - before).norm())
