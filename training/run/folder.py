"""A model as a folder, for the app, transformers and sentence-transformers: written aside, then swapped in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from grit_app.gritlm import GritConfig
from grit_app.gritlm.load import int8
from grit_app.gritlm.load.loading import quiet_transformers
from grit_app.gritlm.prompts import embedding_header

CHAT_TEMPLATE: Final = "".join(
    (
        "{{ bos_token }}{% for message in messages %}",
        "{% if message['role'] == 'system' and loop.first %}",
        "{% elif message['role'] == 'user' %}{{ '<|user|>\n' }}",
        "{% if loop.previtem is defined and loop.previtem['role'] == 'system' %}",
        "{{ loop.previtem['content'] + '\n' }}{% endif %}",
        "{{ message['content'] + '\n' }}",
        "{% elif message['role'] == 'assistant' %}",
        "{{ '<|assistant|>\n' + message['content'].strip() + eos_token }}",
        "{% if not loop.last %}{{ '\n' }}{% endif %}",
        "{% else %}{{ raise_exception('This format has a system message at the start, user, and assistant.') }}",
        "{% endif %}{% endfor %}",
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    )
)
"""The published layout (Tülu 2 with BOS), for those who use plain transformers. System text opens the user's turn."""

SENTENCE_POOLING: Final = ("mean", "lasttoken")
"""Poolings that sentence-transformers computes as this program does."""


def write_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    grit: GritConfig,
    folder: Path,
    *,
    dtype: str,
    max_shard_size: str = "5GB",
) -> None:
    """Writes weights, tokenizer and settings into an empty folder. The model is rounded to `dtype` in place.

    dtype   float32, bfloat16 or float16: a folder for the app, plain transformers and sentence-transformers;
            int8: for the app alone (see grit_app/gritlm/load/int8.py)
    """
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    grit.save(folder)
    if dtype == "int8":
        _write_int8(model, folder)
    else:
        # The default, but said: sentence-transformers overrides only what a configuration holds.
        model.config.is_causal = True
        with quiet_transformers():
            model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)
        write_sentence_transformers(folder, tokenizer, grit, int(model.config.hidden_size))
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o644)  # safetensors writes files that only their owner can read


def _write_int8(model: PreTrainedModel, folder: Path) -> None:
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    seen: set[int] = set()
    state: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen:  # a tied head is its table a second time
            state[name] = value
        seen.add(value.data_ptr())
    int8.write(state, folder)


def write_sentence_transformers(
    folder: Path, tokenizer: PreTrainedTokenizerBase, grit: GritConfig, hidden_size: int
) -> None:
    """Writes the files by which `SentenceTransformer(folder)` gives the vectors of `GritLM.encode`.

    `encode` and `encode_document` put the header of a text without instruction first; `encode_query` puts the header
    with the checkpoint's retrieval instruction. Nothing is written for a pooling that sentence-transformers computes
    otherwise.
    """
    if grit.pooling not in SENTENCE_POOLING:
        return
    bos = str(tokenizer.bos_token or tokenizer.eos_token)
    opening = "" if tokenizer("a")["input_ids"][0] == tokenizer.convert_tokens_to_ids(bos) else bos  # type: ignore[index]
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * grit.normalized
    _write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(modules)
        ],
    )
    for path, _ in modules[1:]:
        (folder / path).mkdir(exist_ok=True)
    _write_json(
        folder / "1_Pooling" / "config.json",
        {"embedding_dimension": hidden_size, "pooling_mode": grit.pooling, "include_prompt": False},
    )
    _write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            # Text alone: with a chat template, every text would be put into a chat.
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
            # Here and not in config.json, where it would make plain transformers write without causal attention.
            "config_kwargs": {"is_causal": grit.embedding_is_causal, "sliding_window": None},
            "processor_kwargs": {"padding_side": "right"},
        },
    )
    _write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {
                "query": opening + embedding_header(grit.retrieval_instruction),
                "document": opening + embedding_header(),
            },
            "default_prompt_name": "document",
            "similarity_fn_name": "cosine",
        },
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` that takes its place at the end; after an error `target` is as it was.

    A process killed on the way leaves `tmp-NAME` or `old-NAME` beside it. The next call removes the one and, where
    `target` is missing, puts the other back.
    """
    aside, old = target.with_name(f"tmp-{target.name}"), target.with_name(f"old-{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if target.exists():
        target.rename(old)
    aside.rename(target)
    shutil.rmtree(old, ignore_errors=True)
