"""Train the byte-level BPE tokenizer of a model made from scratch.

    python -m training.tokenizer --config training/recipes/mini-tokenizer.yaml --output_dir runs/tokenizer

Properties that the rest of the project relies on:
- all 256 bytes are in the alphabet, so no text becomes unknown and decoding gives the text back exactly;
- digits are split one by one ("2015" is four tokens): numbers are copied, never memorised as chunks;
- ids 0, 1, 2 are `<unk>` (also the padding token), `<s>` and `</s>`, as in Mistral's vocabulary;
- GritLM's markers (`<|user|>`, `<|assistant|>`, `<|embed|>`) are plain text, as published. They occur in the training
  text often enough to become a few pieces each;
- a newline never merges with what follows it, so a prompt that ends in a newline has the same ids alone and joined;
- nothing is added by itself: `grit_app.gritlm.prompts` owns the BOS token.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse import auto_cli
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.scratch.corpus import CorpusError, SourceConfig, read_documents

log = logging.getLogger(__name__)

UNK_TOKEN, BOS_TOKEN, EOS_TOKEN = "<unk>", "<s>", "</s>"

# GPT-2's pattern with two changes: one digit a piece, and a newline always alone.
SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|[\r\n]|[^\S\r\n]+(?!\S)|[^\S\r\n]+"

# Tülu 2's layout with BOS in front (the published GritLM format). Assistant text is stripped, user text is not.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\\n' + message['content'] | trim + eos_token }}{% if not loop.last %}{{ '\\n' }}{% endif %}"
    "{% else %}{{ raise_exception('Only the roles user and assistant exist in this format.') }}{% endif %}"
    "{% if loop.last and add_generation_prompt and message['role'] == 'user' %}{{ '<|assistant|>\\n' }}{% endif %}"
    "{% endfor %}"
)

MARKER_TEXT = "<|user|>\nQuestion\n<|assistant|>\nThe answer is\n<|embed|>\n"


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What a tokenizer is trained on."""

    data_dir: Path
    """Folder with the corpus files (see training/DATA.md)."""

    output_dir: Path
    """Where the tokenizer is saved."""

    sources: list[SourceConfig] = field(default_factory=list)
    """Corpus files; `weight` is the share of characters that each contributes."""

    vocab_size: int = 8192
    """With the three special tokens and the 256 bytes. More: shorter sequences, but a bigger table to learn."""

    characters: int = 60_000_000
    """Text that is read in all. 60 M characters take about a minute; more changes few merges."""

    model_max_length: int = 4096
    """Written into the tokenizer's settings."""

    seed: int = 0

    def __post_init__(self) -> None:
        if self.vocab_size < 300:
            raise CorpusError(
                f"vocab_size must be at least 300 (256 bytes and the special tokens), not {self.vocab_size}."
            )


def training_texts(config: TokenizerConfig) -> Iterator[str]:
    """Documents of all sources, each source up to its share of the characters, with markers now and then."""
    total_weight = sum(source.weight for source in config.sources)
    for source in config.sources:
        budget = config.characters * source.weight / total_weight
        documents = read_documents(config.data_dir, source)
        random.Random(f"{config.seed}:{source.file}").shuffle(documents)
        for number, document in enumerate(documents):
            if budget <= 0:
                break
            budget -= len(document)
            yield document + "\n" + MARKER_TEXT if number % 8 == 0 else document


def train_tokenizer(texts: Iterator[str], vocab_size: int, model_max_length: int = 4096) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the given number of entries (see the module's text for its properties)."""
    bpe = Tokenizer(models.BPE(unk_token=None, byte_fallback=False))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[UNK_TOKEN, BOS_TOKEN, EOS_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=UNK_TOKEN,
        pad_token=UNK_TOKEN,
        padding_side="right",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def run(config: TokenizerConfig) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer(training_texts(config), config.vocab_size, config.model_max_length)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(config.output_dir))
    log.info("%d entries, saved in %s", len(tokenizer), config.output_dir)
    return tokenizer


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run(auto_cli(TokenizerConfig, as_positional=False))
    except CorpusError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
