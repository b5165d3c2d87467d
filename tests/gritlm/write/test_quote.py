"""Quote mode: whatever the model is, the answer is one of the texts, word for word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grit_app.gritlm.errors import InputError
from grit_app.gritlm.write.decoding import Sampling
from grit_app.gritlm.write.quote import QuoteConstraint, best_span, tokenizations
from tests.conftest import FAMILIES

REFUSAL = "The text does not give the answer."
SPANS = [
    "370 schools took part.",
    "370 schools took part in the United States.",
    " Bees make honey from nectar; they store it in combs. ",
    "Größe: 12 µm — 🙂",
]
PROMPT = "<|user|>\nHow many schools took part?\n<|assistant|>\n"


@pytest.mark.parametrize("prefix", ["", "The answer is"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_and_sampled_answers_are_always_one_of_the_texts(
    load_tiny: Callable[..., Any], family: str, prefix: str
) -> None:
    """Random models would write anything; after a newline and after a word alike."""
    model = load_tiny(family)
    constraint = QuoteConstraint(model.prompts, SPANS, REFUSAL)
    allowed = {span.strip() for span in (*SPANS, REFUSAL)}
    seen = set()
    for seed in range(12):
        sampling = Sampling(temperature=0.0 if seed == 0 else 3.0, seed=seed)
        answer = model.stream_ids(model.prompts.opening(PROMPT + prefix), sampling=sampling, constraint=constraint)
        text = answer.read_all()
        assert text.strip() in allowed
        assert answer.stats.finish_reason == "stop"
        seen.add(text.strip())
    assert len(seen) > 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spans=st.lists(st.text(alphabet="ab é漢🙂.,\n1", min_size=1, max_size=12), min_size=1, max_size=5),
    seed=st.integers(),
)
def test_any_texts_come_out_word_for_word(tiny_model: Any, spans: list[str], seed: int) -> None:
    sampling = Sampling(temperature=5.0, seed=seed % 1000)
    constraint = QuoteConstraint(tiny_model.prompts, spans, REFUSAL)
    answer = tiny_model.stream_ids(tiny_model.prompts.opening(PROMPT), sampling=sampling, constraint=constraint)
    assert answer.read_all().strip() in {span.strip() for span in spans if span.strip()} | {REFUSAL}


def test_forced_tokens_cost_no_forward_and_change_nothing(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one text is left there is nothing to choose: a long quote takes as many forwards as it has branches."""
    from grit_app.gritlm.write.runtime import Decoder

    forwards: list[int] = []
    original = Decoder.logits

    def counted(self: Decoder, ids: Any, *rest: Any) -> Any:
        forwards.append(len(ids))
        return original(self, ids, *rest)

    monkeypatch.setattr(Decoder, "logits", counted)
    constraint = QuoteConstraint(tiny_model.prompts, SPANS, REFUSAL)
    answer = tiny_model.stream_ids(tiny_model.prompts.opening(PROMPT), constraint=constraint)
    answer.read_all()
    assert len(forwards) < len(answer.token_ids) / 2
    assert answer.stats.new_tokens == len(answer.token_ids) > 5


def test_an_answer_may_end_only_where_a_text_ends(tiny_model: Any) -> None:
    """The first span is the beginning of the second: both ends must be possible, and nothing between."""
    constraint = QuoteConstraint(tiny_model.prompts, ["370 schools", "370 schools took part"])
    state = constraint.begin()
    eos_id = tiny_model.prompts.eos_id
    short = tiny_model.prompts.continuation("370 schools")
    for token_id in short:
        assert eos_id not in state.allowed()
        state.advance(token_id)
    assert eos_id in state.allowed() and len(state.allowed()) == 2
    for token_id in tiny_model.prompts.continuation("370 schools took part")[len(short) :]:
        state.advance(token_id)
    assert list(state.allowed()) == [eos_id]


def test_states_of_one_constraint_are_independent(tiny_model: Any) -> None:
    constraint = QuoteConstraint(tiny_model.prompts, SPANS, REFUSAL)
    first, second = constraint.begin(), constraint.begin()
    before = set(second.allowed())
    first.advance(next(iter(first.allowed())))
    assert set(second.allowed()) == before != set(first.allowed())


def test_both_ways_to_continue_a_prompt(tiny_model: Any) -> None:
    prompts = tiny_model.prompts
    assert [prompts.decode(ids) for ids in tokenizations(prompts, " honey ")] == ["honey", " honey"]
    assert tokenizations(prompts, "  ") == []


def test_nothing_to_quote_is_a_sentence(tiny_model: Any) -> None:
    with pytest.raises(InputError, match="nothing to quote"):
        QuoteConstraint(tiny_model.prompts, ["  ", ""])
    with pytest.raises(InputError, match="no text to choose"):
        best_span(tiny_model, [1, 5], None, [" "])
    assert QuoteConstraint(tiny_model.prompts, [], REFUSAL).begin().allowed(), "the refusal alone is an answer"


@pytest.mark.parametrize("length_normalised", [True, False])
def test_the_best_span_is_the_likeliest_whole_text(tiny_model: Any, length_normalised: bool) -> None:
    """Against scoring each text, in both tokenisations and with its end, on its own."""
    tail = tiny_model.prompts.opening(PROMPT)
    choice = best_span(tiny_model, tail, None, [*SPANS, ""], length_normalised)
    expected = []
    for span in SPANS:
        ways = [[*ids, tiny_model.prompts.eos_id] for ids in tokenizations(tiny_model.prompts, span)]
        totals = [tiny_model.score(tail, [ids])[0] for ids in ways]
        expected.append(max(t / len(i) if length_normalised else t for t, i in zip(totals, ways, strict=True)))
    assert choice.scores[:-1] == pytest.approx(expected, abs=1e-3)
    assert choice.scores[-1] == float("-inf")
    assert choice.index == max(range(4), key=expected.__getitem__)
    assert choice.text == SPANS[choice.index].strip()


def test_a_cache_gives_the_same_choice_as_the_whole_prompt(tiny_model: Any) -> None:
    ids = tiny_model.prompts.opening(PROMPT)
    cache = tiny_model.causal_cache(ids[:-4])
    whole, cached = best_span(tiny_model, ids, None, SPANS), best_span(tiny_model, ids[-4:], cache, SPANS)
    assert cached.scores == pytest.approx(whole.scores, abs=1e-4)
