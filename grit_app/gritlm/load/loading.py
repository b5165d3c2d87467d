"""From a name to a model on a device: which model, stock classes only, precision, quantisation, and whether it fits."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers import logging as transformers_logging

from grit_app.gritlm.errors import ModelError
from grit_app.gritlm.load import gguf, int8
from grit_app.gritlm.load.kernels import use_steady_attention
from grit_app.gritlm.load.size import Weights, free_bytes, gigabytes, read_weights, weight_files
from grit_app.gritlm.load.sources import cached_folder, remote_weights

log = logging.getLogger(__name__)

QUANTIZATIONS: Final = ("auto", "none", "8bit", "4bit")
FULL_SIZE_MODEL: Final = "GritLM/GritLM-7B"
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

PROVEN_FAMILIES: Final = ("mistral", "mixtral", "llama", "qwen2", "qwen3")
"""Families whose attention is tested here. Others are proven when they are loaded, by two tiny forwards."""


@dataclass(frozen=True)
class ModelChoice:
    """What `--model` came to."""

    source: str
    notice: str = ""
    """A sentence for the user where the choice is not the one they would expect; else empty."""


def resolve_model(name: str, bundled: str | Path, quantization: str = "auto", device: str = "auto") -> ModelChoice:
    """`auto` becomes GritLM-7B on a CUDA GPU with room for it, else the bundled model; any other name stays."""
    if name != "auto":
        return ModelChoice(name)
    target = resolve_device(device)
    if target.type != "cuda":
        return ModelChoice(str(bundled))
    folder = cached_folder(FULL_SIZE_MODEL)
    weights = read_weights(folder) if folder else remote_weights(FULL_SIZE_MODEL)
    if weights is None:
        notice = (
            f"{FULL_SIZE_MODEL} is not on this machine and the hub cannot be reached, so the small bundled model runs."
        )
        return ModelChoice(str(bundled), notice)
    try:
        choose_quantization(quantization, weights, resolve_dtype(target), target, FULL_SIZE_MODEL)
    except ModelError as error:
        return ModelChoice(str(bundled), f"The small bundled model runs: {error}")
    return ModelChoice(FULL_SIZE_MODEL)


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU if there is one. Raises ModelError for a device that this machine lacks."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"There is no device {device!r}. Use auto, cpu, cuda or cuda:0.") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"Device {device!r} was asked for, but PyTorch finds no CUDA GPU here. Use --device cpu.")
    if target.type == "cuda" and target.index is not None and target.index >= torch.cuda.device_count():
        raise ModelError(
            f"Device {device!r} was asked for, but there are only {torch.cuda.device_count()} GPUs, from cuda:0 on."
        )
    return target


def resolve_dtype(device: torch.device, dtype: torch.dtype | str | None = None) -> torch.dtype:
    """The compute precision: as asked; else bfloat16 on GPUs and on CPUs that multiply it in hardware, else float32."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is not None:
        if dtype not in DTYPES:
            raise ModelError(f"There is no dtype {dtype!r} to compute in. Use {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def choose_quantization(
    quantization: str, weights: Weights, dtype: torch.dtype, device: torch.device, name: str
) -> Literal["none", "8bit", "4bit"]:
    """`auto` is none if that fits, else 4bit. Raises ModelError, with the numbers, if the model cannot fit."""
    if quantization not in QUANTIZATIONS:
        raise ModelError(f"quantization must be one of {', '.join(QUANTIZATIONS)}, not {quantization!r}.")
    free = free_bytes(device)
    candidates: tuple[Any, ...] = ("none", "4bit") if quantization == "auto" else (quantization,)
    for candidate in candidates:
        needed = weights.loading_bytes(dtype, candidate, on_cpu=device.type == "cpu") + weights.working_bytes(dtype)
        if needed <= free:
            return candidate  # type: ignore[no-any-return]
    advice = "Use a smaller model" if candidates[-1] == "4bit" else "Use --quantization 4bit, or a smaller model"
    where = "the GPU" if device.type == "cuda" else "this machine"
    raise ModelError(
        f"{name} needs about {gigabytes(needed)} with quantization {candidates[-1]}, but {where} has "
        f"{gigabytes(free)} free. {advice}, or free memory."
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer exactly as `tokenizer.json` describes it, right-padding.

    Not through AutoTokenizer: it rebuilds Llama-type tokenizers from their vocabulary, where a lost setting `legacy`
    changes the ids of every GritLM prompt, and from a sentencepiece file it orders runs of spaces differently
    (transformers 5.23).
    """
    if gguf.is_gguf(folder):
        if not (folder.parent / "tokenizer.json").is_file():
            return _gguf_tokenizer(folder)
        folder = folder.parent
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json. Convert its tokenizer with save_pretrained of a fast tokenizer."
        )
    try:
        with quiet_transformers():
            tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, padding_side="right"
            )
    except Exception as error:  # the Rust library raises plain Exception for a damaged file
        raise ModelError(f"The tokenizer in {folder} cannot be read: {_first_line(error)}") from error
    return tokenizer


def _gguf_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    try:
        with quiet_transformers():
            return gguf.read_tokenizer(file)
    except Exception as error:  # the conversions raise whatever they meet
        raise ModelError(
            f"The tokenizer in {file} cannot be read ({_first_line(error)}). Put the model's tokenizer.json beside it."
        ) from error


def load_config(folder: Path) -> Any:
    """The checkpoint's configuration for the stock classes: no code from the folder, no sliding window."""
    try:
        if gguf.is_gguf(folder):
            with quiet_transformers():
                values = gguf.read_config(folder)
        else:
            values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # GritLM's own repositories point to modelling code of 2024 here; the stock classes do the same today.
        values.pop("auto_map", None)
        values.pop(int8.KEY, None)
        # Every forward here states it; the configuration's value is for other programs.
        values.pop("is_causal", None)
        model_type = values.pop("model_type")
        # A window would cut long caches and narrow bidirectional attention; the reference ran without one.
        values.update(sliding_window=None, use_sliding_window=False)
        values.pop("layer_types", None)
        return AutoConfig.for_model(model_type, **values)
    except (OSError, json.JSONDecodeError, KeyError) as error:
        file = folder if gguf.is_gguf(folder) else folder / "config.json"
        raise ModelError(f"{file} is not a model configuration ({_first_line(error)}).") from error
    except ValueError as error:
        raise ModelError(f"The kind of model in {folder} is unknown to transformers: {_first_line(error)}") from error


def load_hf_model(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Literal["none", "8bit", "4bit"],
    attention_kernel: str = "sdpa",
    separate_experts: bool = False,
) -> PreTrainedModel:
    """The causal language model of a folder, ready to run. Raises ModelError if weights are missing or do not fit.

    separate_experts   a Mixtral's experts as linear layers, as they always are when quantised (separate_experts.py):
                       for adapters that were trained beside quantised weights

    Quantising takes the memory of the quantised model and of one tensor of the checkpoint.
    """
    use_steady_attention()
    config = load_config(folder)
    read_weights(folder)  # a file that was cut short is said before anything is loaded
    settings: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention_kernel, "config": config}
    state = _read_state(folder, dtype)
    if state is not None:
        settings["state_dict"] = state
    if quantization != "none":
        # It remarks on the casts of inputs at every single multiplication.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        settings["quantization_config"] = quantization_settings(quantization, dtype)
    settings["device_map"] = _device_map(folder, device, dtype, quantization)
    try:
        with quiet_transformers():
            loaded: Any = _model_class(config, separate_experts or quantization != "none").from_pretrained(
                None if state is not None else folder,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **settings,
            )
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(
            f"{folder.name} does not fit on the GPU. Use --quantization 4bit, or free its memory."
        ) from error
    except KeyError as error:
        raise ModelError(f"{folder} holds a {config.model_type}, which is not a causal language model.") from error
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"The model in {folder} cannot be loaded: {_first_line(error)}") from error
    model: PreTrainedModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:  # transformers would go on with random numbers in their place
        raise ModelError(
            f"The checkpoint in {folder} lacks {len(missing)} of the model's tensors ({', '.join(missing[:3])} …). "
            "Its names may carry a prefix from training: save it again with save_pretrained."
        )
    if state is not None:
        model.name_or_path = str(folder)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    model.eval().requires_grad_(False)
    return model


def _read_state(folder: Path, dtype: torch.dtype) -> dict[str, Any] | None:
    """The weights of a form that transformers does not load by itself, or not whole; None for plain safetensors."""
    if gguf.is_gguf(folder):
        try:
            with quiet_transformers():
                return dict(gguf.read_state(folder, dtype))
        except (OSError, ValueError, RuntimeError, ImportError, KeyError, IndexError, TypeError) as error:
            raise ModelError(f"The model in {folder} cannot be loaded: {_first_line(error)}") from error
    return int8.lazy_state(weight_files(folder), dtype) if int8.file_names(folder) is not None else None


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises ModelError if the tokenizer has ids that the model's table has no row for."""
    table: Any = model.get_input_embeddings()
    rows = int(table.weight.shape[0])
    if len(tokenizer) > rows:
        raise ModelError(
            f"The tokenizer of {name} has {len(tokenizer):,} tokens, but the model's table has only {rows:,} rows, so "
            "they do not belong together. Use the tokenizer that the weights were trained with, or resize the table "
            "with resize_token_embeddings and save the model again."
        )


def _model_class(config: Any, separate_experts: bool) -> Any:
    if config.model_type != "mixtral" or not separate_experts:
        # Not the automatic class: it wants a folder's name, and int8 weights come as a state dict.
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    from grit_app.gritlm.load.experts import SeparateMixtralForCausalLM  # loads code that only a Mixtral needs

    return SeparateMixtralForCausalLM


def quantization_settings(quantization: Literal["8bit", "4bit"], dtype: torch.dtype) -> BitsAndBytesConfig:
    """bitsandbytes: 8-bit (LLM.int8), or 4-bit NF4 with double quantisation.

    4 bits compute in `dtype`, which is float16 on cards without bfloat16. 8 bits look for outliers on the host once a
    layer, which makes decoding slow; they are for weights that 4 bits would hurt.
    """
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == torch.float32 else dtype,
    )


def _device_map(folder: Path, device: torch.device, dtype: torch.dtype, quantization: str) -> Any:
    """Everything on one device; over all GPUs where one is too small and none was named."""
    if device.type != "cuda" or device.index is not None:
        return {"": device}
    weights = read_weights(folder)
    needed = weights.memory_bytes(dtype, quantization) + weights.working_bytes(dtype)
    roomiest = max(range(torch.cuda.device_count()), key=lambda index: torch.cuda.mem_get_info(index)[0])
    return {"": roomiest} if needed <= torch.cuda.mem_get_info(roomiest)[0] else "balanced"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no remarks of transformers while a model loads; its settings come back afterwards."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
