"""The tokenizer made from scratch keeps the promises that prompts, caches and copying of numbers rely on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from grit_app.gritlm.prompts import Prompts
from tests.training.corpus_files import write_corpus
from training.scratch.corpus import CorpusError, SourceConfig
from training.tokenizer import TokenizerConfig, run, training_texts


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    return run(settings(folder))


def settings(folder: Path, **changes: object) -> TokenizerConfig:
    write_corpus(folder / "corpus")
    values: dict[str, object] = {
        "data_dir": folder / "corpus",
        "output_dir": folder / "out",
        "vocab_size": 600,
        "sources": [SourceConfig(file="prose.jsonl.xz", template="titled")],
    }
    return TokenizerConfig(**(values | changes))  # type: ignore[arg-type]


def test_every_text_comes_back_and_nothing_is_unknown(tokenizer: PreTrainedTokenizerFast) -> None:
    """All 256 bytes are in the alphabet: random bytes of any script, control characters and emoji survive."""
    rng = random.Random(0)
    texts = ["", " ", "\n\n  x", "naïve — 中文 🙂\u200d👩", "tab\there\r\nend ", "\x00\x7f"]
    texts += ["".join(chr(rng.choice([rng.randrange(32, 0x2FF), rng.randrange(0x4E00, 0x9FFF)])) for _ in range(40))]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_digits_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    for token in tokenizer.get_vocab():
        assert sum(c.isdigit() for c in token) <= 1, token
    assert len(tokenizer("1234567", add_special_tokens=False)["input_ids"]) == 7


def test_special_ids_are_mistrals_and_nothing_is_added_by_itself(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.pad_token_id == 0
    assert not set(tokenizer("plain text")["input_ids"]) & {0, 1, 2}


def test_markers_are_few_pieces_of_plain_text(tokenizer: PreTrainedTokenizerFast) -> None:
    """They occur in the training text, so each is a few merges, and none is a token of its own."""
    for marker in ("<|user|>\n", "<|assistant|>\n", "<|embed|>\n"):
        ids = tokenizer(marker, add_special_tokens=False)["input_ids"]
        assert 1 < len(ids) <= 6, tokenizer.convert_ids_to_tokens(ids)


def test_a_newline_never_merges_with_what_follows(tokenizer: PreTrainedTokenizerFast) -> None:
    """Blocks and tails are tokenised apart and joined; a prompt ends in a newline, so the ids must be the same."""
    rng = random.Random(1)
    pieces = ["The ", " answer", "\n", "  ", "42", "é", "'s", "<|", "\t", "x"]
    for _ in range(300):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 8)))
        joint, first, second = (
            tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("<|user|>\n" + text, "<|user|>\n", text)
        )
        assert joint == first + second, repr(text)


def test_saved_tokenizer_loads_the_same_and_its_template_is_the_chat_format(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """The template, used by other programs, and `Prompts`, used here, must give the same ids."""
    tokenizer.save_pretrained(str(tmp_path))
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    messages = [
        {"role": "user", "content": "How many? "},
        {"role": "assistant", "content": " Twelve of 35. "},
        {"role": "user", "content": "And now?"},
    ]
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|user|>\nHow many? \n<|assistant|>\nTwelve of 35.</s>\n<|user|>\nAnd now?\n<|assistant|>\n"
    assert loaded(text, add_special_tokens=False)["input_ids"] == Prompts(tokenizer).chat(messages).ids


def test_shares_of_the_sources_are_kept(tmp_path: Path) -> None:
    """`weight` is a share of characters; the reader stops a source at its budget."""
    sources = [SourceConfig(file="prose.jsonl.xz", weight=3), SourceConfig(file="stories.jsonl.xz", weight=1)]
    config = settings(tmp_path, sources=sources, characters=8000)
    total = sum(len(text) for text in training_texts(config))
    assert 8000 <= total <= 8000 + 2 * 2000  # one document over, at most, for each


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    config = settings(tmp_path, sources=[SourceConfig(file="absent.jsonl.xz")])
    with pytest.raises(CorpusError, match=r"absent\.jsonl\.xz is not there\. Set data_dir"):
        list(training_texts(config))
