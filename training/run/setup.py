"""From a recipe to the things that train: model, module, optimizer, processes."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from grit_app.gritlm.embed.attention import base_model, prove_attention
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.load.kernels import use_steady_attention
from grit_app.gritlm.load.loading import load_config, load_hf_model, load_tokenizer
from grit_app.gritlm.load.sources import find_folder
from grit_app.gritlm.prompts import Prompts
from training.config import ConfigError, TrainConfig
from training.data.chunk import Forwards
from training.run.adapters import add_adapters
from training.run.heap import keep_heap_small
from training.run.kernels import compile_layers, fuse_norms
from training.run.optimizer import build_optimizer
from training.step.distributed import Ranks
from training.step.module import GritModule
from training.step.segments import kernel_error, use_segments
from training.step.step import Stepper

log = logging.getLogger(__name__)

KERNEL_TOLERANCE = 0.03
"""Half precision moves an output of unit size by about 0.01; a wrong mask moves it by 1."""


@dataclass
class Trainer:
    """Everything that changes during a run, and what it runs on."""

    config: TrainConfig
    accelerator: Accelerator
    ranks: Ranks
    core: GritModule
    module: nn.Module
    optimizer: Any
    stepper: Stepper
    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    grit: GritConfig
    forwards: Forwards
    folder: Path
    """Of the model that the run started from: it holds the tokenizer."""

    @property
    def is_sharded(self) -> bool:
        return self.stepper.is_sharded


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The processes that this one was launched with: one without `accelerate launch`.

    Each run has its own: the library remembers the first precision and would refuse a second run of another one.
    """
    use_steady_attention()
    AcceleratorState._reset_state(reset_partial_state=False)  # private, but the library has no other way
    return Accelerator(mixed_precision="bf16" if config.run.precision == "bf16" else "no")


def set_up(config: TrainConfig, accelerator: Accelerator | None = None, teacher_width: int = 0) -> Trainer:
    """Loads the model and prepares it for one or many processes. Raises ConfigError for pairs that do not work.

    teacher_width   columns of the teachers' vectors (`training.data.teachers`); 0: no file has a teacher
    """
    accelerator = accelerator or make_accelerator(config)
    check_pairs(config, accelerator)
    if accelerator.device.type == "cpu":
        keep_heap_small()
    ranks = Ranks.here(accelerator.device)
    folder = Path(config.model.path) if config.model.random_weights else find_folder(config.model.path)
    is_sharded = accelerator.distributed_type == DistributedType.FSDP
    # FSDP2 moves one layer after the other to the device and keeps a shard of it: the whole model stays on the CPU.
    device = torch.device("cpu") if is_sharded else accelerator.device
    core, grit = build_module(config, folder, device, teacher_width)
    forwards = choose_forwards(config, core, accelerator.device)
    if accelerator.device.type == "cuda":
        fuse_norms(core)
    if config.run.compile:
        compile_layers(cast(nn.ModuleList, base_model(core.hf_model).layers))
    optimizer = build_optimizer(core, config.optimizer)
    module, optimizer = prepare(accelerator, core, optimizer)
    stepper = Stepper(module, core, config, ranks, is_sharded=is_sharded)
    tokenizer = load_tokenizer(folder)
    return Trainer(
        config,
        accelerator,
        ranks,
        core,
        module,
        optimizer,
        stepper,
        tokenizer,
        Prompts(tokenizer),
        grit,
        forwards,
        folder,
    )


def check_pairs(config: TrainConfig, accelerator: Accelerator) -> None:
    """Refuses what is known not to work, before a model is loaded."""
    is_fsdp = accelerator.distributed_type == DistributedType.FSDP
    if config.adapter.method == "qlora":
        if is_fsdp:
            raise ConfigError(
                "adapter.method qlora does not work with FSDP2: bitsandbytes' packed 4-bit weights cannot be "
                "sharded by parameter. Use DDP (the 4-bit model fits each GPU), or adapter.method lora with FSDP2."
            )
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "adapter.method qlora needs the package bitsandbytes. Install it, or use adapter.method lora."
            ) from error
    if config.run.compile and accelerator.device.type != "cpu":
        raise ConfigError("run.compile is for CPUs: a GPU runs packed rows with fused kernels. Set it to false.")
    if is_fsdp and getattr(accelerator.state.fsdp_plugin, "fsdp_version", 2) != 2:
        raise ConfigError(
            "Only FSDP version 2 is supported. Set fsdp_version: 2 as in training/recipes/accelerate-fsdp2.yaml."
        )
    if is_fsdp and config.adapter.method != "full" and (config.evaluation.files or config.evaluation.suite):
        raise ConfigError(
            "Evaluation during a sharded LoRA run is not possible. Set evaluation.files to [] and evaluation.suite to "
            "null, or use DDP."
        )
    if config.generative.base_kl_weight > 0 and (is_fsdp or config.model.random_weights):
        raise ConfigError(
            "generative.base_kl_weight keeps a whole frozen copy of the model: FSDP2 would not shard it, and with "
            "model.random_weights there is nothing to keep. Set it to 0."
        )
    if config.run.rows == "packed" and config.model.kernel != "sdpa":
        raise ConfigError("run.rows packed is made for model.kernel sdpa. Use that, or run.rows padded.")
    supported = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU, DistributedType.FSDP)
    if accelerator.distributed_type not in supported:
        raise ConfigError(
            f"accelerate is set to {accelerator.distributed_type.value}, which is not supported here. Use "
            "training/recipes/accelerate-ddp.yaml or accelerate-fsdp2.yaml."
        )


def choose_forwards(config: TrainConfig, core: GritModule, device: torch.device) -> Forwards:
    """Packed rows where the recipe or the device asks for them; else padded ones, with padding as the device likes it.

    A forward costs a CPU little by itself, and a GPU some thousand launches: there more padding is cheaper than more
    forwards.
    """
    on_gpu = device.type == "cuda"
    padded = Forwards(False, 0.6 if on_gpu else 0.1, config.model.pooling)
    if config.run.rows == "padded" or config.model.kernel != "sdpa" or getattr(core.config, "attention_dropout", False):
        return padded
    if config.run.rows == "auto":
        if not on_gpu or config.run.precision != "bf16":
            return padded
        shape = core.config
        heads = int(shape.num_attention_heads)
        kv_heads = int(getattr(shape, "num_key_value_heads", None) or heads)
        head_dim = int(getattr(shape, "head_dim", None) or shape.hidden_size // heads)
        try:
            error = kernel_error(device, torch.bfloat16, heads, kv_heads, head_dim)
        except (RuntimeError, ImportError, TypeError, ValueError) as problem:
            log.warning("The kernel for packed rows does not run here (%s); rows are padded.", problem)
            return padded
        if error > KERNEL_TOLERANCE:
            log.warning("The kernel for packed rows is off by %.3f here; rows are padded.", error)
            return padded
    use_segments(core.hf_model)
    return replace(padded, is_packed=True)


def build_module(
    config: TrainConfig, folder: Path, device: torch.device, teacher_width: int = 0
) -> tuple[GritModule, GritConfig]:
    """The module that is trained, in training mode, and the checkpoint's settings."""
    model = load_for_training(config, folder, device)
    prove_attention(model, with_bidirectional=config.model.attention.startswith("b"))
    router_weight = 0.0
    if hasattr(model.config, "router_aux_loss_coef"):
        wanted = config.generative.router_weight
        router_weight = float(model.config.router_aux_loss_coef if wanted is None else wanted)
    language_model: nn.Module = model
    if config.adapter.method == "full":
        model.requires_grad_(True)
    else:
        language_model = add_adapters(model, config.adapter, config.run.seed)
    if config.model.gradient_checkpointing:
        # Called activation_checkpointing_enable since transformers 5.20; the old name warns from then on.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)  # the same head on every process
        core = GritModule(
            language_model,
            pooling=config.model.pooling,
            teacher_width=teacher_width if config.distill.cosine_weight > 0 else 0,
            kl_weight=config.rag.kl_weight,
            base=frozen_base(config, folder, device) if config.generative.base_kl_weight > 0 else None,
            base_kl_weight=config.generative.base_kl_weight,
            router_weight=router_weight,
        )
    return core.to(device).train(), grit_config(config, folder)


def frozen_base(config: TrainConfig, folder: Path, device: torch.device) -> PreTrainedModel:
    """The model before the run, for `generative.base_kl_weight`."""
    dtype = torch.bfloat16 if config.run.precision == "bf16" else torch.float32
    model = load_hf_model(folder, device=device, dtype=dtype, quantization="none")
    return model.requires_grad_(False).eval()


def load_for_training(config: TrainConfig, folder: Path, device: torch.device) -> PreTrainedModel:
    """Full fine-tuning keeps float32 master weights (bf16 alone loses small updates); frozen weights take bf16."""
    method = config.adapter.method
    if config.model.random_weights:
        if method != "full":
            raise ConfigError("model.random_weights leaves nothing to adapt. Use adapter.method full.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)  # the same weights on every process
            kernel = config.model.kernel
            model = AutoModelForCausalLM.from_config(
                load_config(folder), dtype=torch.float32, attn_implementation=kernel
            )
        return model.to(device)
    frozen = torch.bfloat16 if config.run.precision == "bf16" else torch.float32
    return load_hf_model(
        folder,
        device=device,
        dtype=torch.float32 if method == "full" else frozen,
        quantization="4bit" if method == "qlora" else "none",
        attention_kernel=config.model.kernel,
    )


def grit_config(config: TrainConfig, folder: Path) -> GritConfig:
    """What the checkpoint will say about itself: the starting model's settings, changed by the recipe's."""
    known = {field.name for field in dataclasses.fields(GritConfig)}
    unknown = sorted(set(config.grit) - known)
    if unknown:
        raise ConfigError(
            f"grit names {', '.join(unknown)}, which grit_config.json does not know. It knows {sorted(known)}."
        )
    longest = max(config.data.passage_max_length, config.data.generative_max_length, config.data.query_max_length)
    start = GritConfig.load(folder).overridden(
        attention=config.model.attention, pooling=config.model.pooling, trained_context=longest
    )
    return start.overridden(**config.grit)


def prepare(accelerator: Accelerator, core: GritModule, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
    """Wraps the module for the processes that accelerate was launched with."""
    if accelerator.distributed_type == DistributedType.FSDP:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        plugin = accelerator.state.fsdp_plugin
        if accelerator.mixed_precision == "bf16":
            # float32 where gradients are added up; outputs keep their own precision: vectors are pooled in float32.
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None
            )
    module, prepared = accelerator.prepare(core, optimizer)
    if accelerator.distributed_type == DistributedType.FSDP:
        from torch.distributed.fsdp import FSDPModule

        # accelerate 1.15 falls back to DDP without a word in some settings.
        assert isinstance(module, FSDPModule), type(module)
    return module, prepared
