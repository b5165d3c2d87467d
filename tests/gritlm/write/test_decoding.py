"""The token loop on its own, without a model: a scripted reader stands for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grit_app.gritlm.errors import Cancelled, InputError
from grit_app.gritlm.write.decoding import Detokenizer, Sampling, TokenStream, choose_token, without_repetition
from tests.conftest import tiny_tokenizer

EOS = 2


class ScriptedReader:
    """Gives the tokens of a script the highest logit, one after the other, and notes what it was given to read."""

    def __init__(self, script: Sequence[int], cached_tokens: int = 0) -> None:
        self.script, self.cached_tokens = list(script), cached_tokens
        self.prompt_tokens = cached_tokens + 3
        self.reads: list[list[int]] = []
        self.closed = 0

    def read(self, ids: Sequence[int], cancel: threading.Event | None) -> Tensor:
        if cancel is not None and cancel.is_set():
            raise Cancelled("Stopped.")
        self.reads.append(list(ids))
        logits = torch.zeros(512)
        logits[self.script[len(self.reads) - 1]] = 5.0
        return logits

    def close(self) -> None:
        self.closed += 1


def stream_of(reader: ScriptedReader, sampling: Sampling | None = None, **changes: object) -> TokenStream:
    tokenizer = tiny_tokenizer()
    return TokenStream(
        reader,
        [1, 10, 11],
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        stop_ids={EOS},
        sampling=sampling or Sampling(),
        **changes,  # type: ignore[arg-type]
    )


def ids_of(text: str) -> list[int]:
    return tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_stops_at_the_end_token_which_is_not_text() -> None:
    ids = ids_of("Bees make honey.")
    reader = ScriptedReader([*ids, EOS, 99])
    stream = stream_of(reader)
    assert "".join(stream) == stream.text == "Bees make honey."
    assert stream.token_ids == ids
    assert reader.reads == [[1, 10, 11], *[[token_id] for token_id in ids]], "every token is read once"
    assert stream.stats.finish_reason == "stop"
    assert stream.stats.new_tokens == len(ids)
    assert reader.closed


def test_stops_at_the_limit_without_reading_the_last_token() -> None:
    ids = ids_of("Bees make honey.")
    reader = ScriptedReader([*ids, EOS])
    stream = stream_of(reader, Sampling(max_new_tokens=2))
    assert stream.read_all() == "".join(tiny_tokenizer().decode(ids[:2]))
    assert stream.stats.finish_reason == "length"
    assert len(reader.reads) == 2


def test_nothing_runs_before_the_first_piece_is_asked_for() -> None:
    reader = ScriptedReader(ids_of("Bees"))
    stream = stream_of(reader)
    assert reader.reads == [] and stream.stats.total_ms == 0
    next(stream)
    assert len(reader.reads) >= 1 and stream.stats.finish_reason == "running"


def test_statistics_are_consistent() -> None:
    reader = ScriptedReader([*ids_of("Bees make honey from nectar"), EOS], cached_tokens=40)
    stream = stream_of(reader)
    stream.read_all()
    stats = stream.stats
    assert (stats.prompt_tokens, stats.cached_tokens) == (43, 40)
    assert 0 < stats.prefill_ms <= stats.ttft_ms <= stats.total_ms
    assert stats.tokens_per_s == pytest.approx(
        (stats.new_tokens - 1) / (stats.total_ms - stats.ttft_ms) * 1e3, rel=1e-3
    )
    assert stream.stats == stats, "time stands still after the end"


def test_cancel_from_another_thread_ends_within_one_token() -> None:
    cancel = threading.Event()
    reader = ScriptedReader(ids_of("Bees make honey from nectar; they store it in combs made of wax."))
    stream = stream_of(reader, cancel=cancel)
    pieces = [next(stream), next(stream)]
    setter = threading.Thread(target=cancel.set)
    setter.start()
    setter.join()
    reads = len(reader.reads)
    assert list(stream) == []
    assert len(reader.reads) == reads
    assert stream.text == "".join(pieces)
    assert stream.stats.finish_reason == "cancelled" and reader.closed


def test_closing_early_frees_the_reader_and_keeps_the_text() -> None:
    reader = ScriptedReader(ids_of("Bees make honey from nectar"))
    stream = stream_of(reader)
    first = next(stream)
    stream.close()
    assert reader.closed and stream.text == first and stream.stats.finish_reason == "cancelled"
    assert list(stream) == []


def test_closing_before_the_start_frees_the_reader_too() -> None:
    reader = ScriptedReader([])
    stream = stream_of(reader)
    stream.close()
    assert reader.closed and stream.stats.finish_reason == "cancelled" and stream.stats.ttft_ms == 0


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="añ€漢🙂👩‍🚀 \n.é\u0301", min_size=1, max_size=24))
def test_pieces_join_to_the_text_and_never_hold_half_a_character(text: str) -> None:
    """Emoji and Han characters are several byte tokens: half of one must wait for the rest."""
    tokenizer = tiny_tokenizer()
    detokenizer = Detokenizer(lambda ids: tokenizer.decode(ids), ids_of("The answer is"))
    pieces = [detokenizer.push(token_id) for token_id in ids_of(text)]
    pieces.append(detokenizer.flush())
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    ids = ids_of("wax 🙂")
    assert len(ids_of("🙂")) > 2, "the tokenizer must split it for this test"
    reader = ScriptedReader([*ids[:-1], EOS])
    assert stream_of(reader).read_all() == "wax "


def test_a_leading_space_after_the_prompt_is_kept() -> None:
    """Decoders of the sentencepiece kind drop the first space of a text; an answer begins in the middle of one."""
    words = {7: "is", 8: "370", 9: "schools"}

    def decode(ids: Sequence[int]) -> str:
        return " ".join(words[token_id] for token_id in ids)  # as "▁370" does: no space at the very beginning

    detokenizer = Detokenizer(decode, context=[7])
    assert [detokenizer.push(8), detokenizer.push(9)] == [" 370", " schools"]


def test_greedy_is_the_largest_and_the_constraint_decides() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0])
    generator = torch.Generator()
    assert choose_token(logits, Sampling(), generator) == 1
    assert choose_token(logits, Sampling(), generator, allowed=[0, 3, 2]) == 3
    assert choose_token(logits, Sampling(temperature=1e-40), generator) == 1, "division must not overflow"


def test_sampling_follows_the_probabilities_and_top_p() -> None:
    """Against counting: 1,500 draws; the standard error of a share is below 0.013."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)

    def shares(sampling: Sampling) -> Tensor:
        draws = torch.tensor([choose_token(logits, sampling, generator) for _ in range(1500)])
        return torch.bincount(draws, minlength=4) / 1500

    assert (shares(Sampling(temperature=1.0)) - torch.tensor([0.5, 0.3, 0.15, 0.05])).abs().max() < 0.04
    # 0.5 does not reach 0.6 alone, 0.5 + 0.3 does
    assert (shares(Sampling(temperature=1.0, top_p=0.6)) - torch.tensor([0.625, 0.375, 0, 0])).abs().max() < 0.04
    sharp = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert (shares(Sampling(temperature=0.5)) - sharp / sharp.sum()).abs().max() < 0.04
    assert shares(Sampling(temperature=1.0, top_p=0.01)).tolist() == [1.0, 0, 0, 0], "the likeliest always stays"


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_repetition_guards_are_those_of_transformers(penalty: float, size: int) -> None:
    """Against its processors on random answers of few different tokens, of every length from none on."""
    from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    draw = torch.Generator().manual_seed(0)
    sampling = Sampling(repetition_penalty=penalty, no_repeat_ngram_size=size)
    changed = 0
    for length in range(12):
        written = torch.randint(0, 4, (length,), generator=draw)
        logits = torch.randn(9, generator=draw)
        expected = logits[None].clone()
        if length:
            expected = RepetitionPenaltyLogitsProcessor(penalty)(written[None], expected)
        if length and size:
            expected = NoRepeatNGramLogitsProcessor(size)(written[None], expected)
        before = logits.clone()
        assert torch.equal(without_repetition(logits, sampling, written.tolist()), expected[0])
        assert torch.equal(logits, before), "the model's own numbers are left alone"
        changed += not torch.equal(expected[0], before)
    assert (changed > 0) == (penalty != 1.0 or size > 0)


def test_no_run_of_tokens_comes_twice() -> None:
    """A model that loops for ever: three tokens again and again. The guard breaks the loop where it would close."""

    class Looping(ScriptedReader):
        def read(self, ids: Sequence[int], cancel: threading.Event | None) -> Tensor:
            super().read(ids, cancel)
            logits = torch.zeros(8)
            logits[3 + len(self.reads) % 3], logits[EOS] = 5.0, -5.0
            return logits

    free = stream_of(Looping([0] * 12), Sampling(max_new_tokens=12))
    free.read_all()
    assert free.token_ids[:3] == free.token_ids[3:6] == free.token_ids[9:12]
    guarded = stream_of(Looping([0] * 12), Sampling(max_new_tokens=12, no_repeat_ngram_size=3))
    guarded.read_all()
    runs = list(zip(guarded.token_ids, guarded.token_ids[1:], guarded.token_ids[2:], strict=False))
    assert len(runs) == len(set(runs)) == 10


def test_an_answer_of_given_texts_may_repeat_them() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0])
    guard = Sampling(repetition_penalty=50.0, no_repeat_ngram_size=1)
    generator = torch.Generator()
    assert choose_token(logits, guard, generator, written=[1]) == 3
    assert choose_token(logits, guard, generator, allowed=[0, 1], written=[1]) == 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
    ],
)
def test_settings_outside_their_range_are_sentences(changes: dict[str, float], word: str) -> None:
    with pytest.raises(InputError, match=word):
        Sampling(**changes)  # type: ignore[arg-type]
