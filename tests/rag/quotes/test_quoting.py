"""Quote mode: what may be quoted, and how it is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from grit_app.gritlm.write.quote import best_span
from grit_app.rag.quotes.evidence import FEATURES, WEIGHTS, asked_for, evidence, features
from grit_app.rag.quotes.quoting import Candidate, _likelihoods, choose, openings, shortlist
from grit_app.rag.quotes.sentences import sentences_of
from grit_app.rag.strategies import build_layout

PASSAGE = (
    "The mill was built by Anna Berg in 1875. It burned down twice. The owner was a man from Oslo. "
    "The mill has 12 wheels because the river is slow."
)


def reading(tail):
    """One prompt for all passages, without a cache."""
    prompt = (tail, None)
    return lambda passage: prompt


@pytest.mark.parametrize(
    ("question", "kind", "sentence"),
    [
        ("How many wheels does the mill have?", "number", 3),
        ("When was the mill built?", "time", 0),
        ("Who built the mill?", "person", 0),
        ("Why does the mill have so many wheels?", "reason", 3),
        ("Where was the owner from?", "place", 2),
    ],
)
def test_the_sentence_with_the_kind_of_thing_asked_for_wins(question, kind, sentence):
    assert asked_for(question) == kind
    assert int(evidence(question, sentences_of([PASSAGE])).argmax()) == sentence


def test_features_are_as_many_as_weights_and_see_only_their_own_passage():
    """Neighbours in another passage are no context."""
    assert len(FEATURES) == len(WEIGHTS)
    sentences = sentences_of(["Wheels turn.", "The mill has wheels."])
    rows = features("How many wheels does the mill have?", sentences)
    assert rows.shape == (2, len(FEATURES))
    before, behind = FEATURES.index("words_before"), FEATURES.index("words_behind")
    assert np.all(rows[:, [before, behind]] == 0)


def test_shortlist_holds_sentences_once_and_a_better_passage_weighs_more():
    other = "The mill has 12 wheels because the river is slow."
    equal = shortlist("Who built the mill by the slow river?", [PASSAGE, other], [0.5, 0.5], most=3)
    texts = [candidate.sentence.text for candidate in equal]
    assert len(equal) == 2 == len(set(texts)) and other in texts  # the owner and the fire lie too far behind
    clear = shortlist("How many wheels?", [PASSAGE, other], [0.2, 0.9], most=3)
    assert [(c.sentence.text, c.sentence.passage) for c in clear] == [(other, 1)]
    assert shortlist("How many?", [], []) == []


def test_a_question_does_not_answer_a_question():
    """Headings often repeat what is asked."""
    found = shortlist(
        "How many wheels does the mill have?", ["How many wheels does the mill have? It has 12 wheels."], [1.0]
    )
    assert found[0].sentence.text == "It has 12 wheels."


def test_the_choice_is_one_of_the_candidates_and_counts_its_tokens(tiny_model):
    layout = build_layout("rag_doc_query", tiny_model.prompts, tiny_model.config, "Who built it?", [PASSAGE])
    candidates = shortlist("Who built the mill?", [PASSAGE], [1.0])
    quote = choose(tiny_model, "Who built the mill?", reading(layout.tail), candidates)
    assert quote.text == " ".join(sentence.text for sentence in quote.sentences)
    assert {sentence.text for sentence in quote.sentences} <= {candidate.sentence.text for candidate in candidates}
    assert quote.short in quote.text and quote.short
    assert quote.short in quote.short_from.text and quote.short_from in quote.sentences


def test_two_sentences_are_quoted_only_if_they_are_nearly_as_good(tiny_model):
    """In the order of the text, whichever is better."""
    first, second = sentences_of(["It has 12 wheels. It has 9 doors."])
    close = choose(tiny_model, "Who?", reading([1, 5]), [Candidate(second, 5.0), Candidate(first, 4.99)])
    assert close.text == "It has 12 wheels. It has 9 doors."
    clear = choose(tiny_model, "Who?", reading([1, 5]), [Candidate(second, 50.0), Candidate(first, 4.99)])
    assert clear.text == "It has 9 doors."


def test_the_embedding_and_the_likelihood_have_a_say(tiny_model):
    """Candidates that are equal by words must be told apart by the model: by its vectors, and by its likelihoods."""
    sentences = sentences_of(["Bees store honey.", "The river rises in the mountains.", "Wax."])
    equal = [Candidate(sentence, 0.0) for sentence in sentences]
    vectors = tiny_model.encode([sentence.text for sentence in sentences])
    near = [choose(tiny_model, "Who?", reading([1, 5]), equal, vector=100 * vector).sentences for vector in vectors[:2]]
    assert near[0] != near[1]


def test_a_sentence_is_judged_behind_the_prompt_that_reads_its_passage(tiny_model):
    """Where passages are read one by one, each has a prompt of its own."""
    sentences = sentences_of(["Bees store honey.", "The river rises in the mountains."])
    candidates = [Candidate(sentence, 0.0) for sentence in sentences]
    prompts = [([1, 5, 9], None), ([1, 7, 30], None)]
    refusal = tiny_model.config.refusal_sentence
    expected = [
        best_span(tiny_model, *prompts[number], [sentence.text, refusal]).scores
        for number, sentence in enumerate(sentences)
    ]
    found, rival = _likelihoods(tiny_model, lambda passage: prompts[passage], candidates, None)
    assert found == pytest.approx([scores[0] for scores in expected], abs=1e-4)
    assert rival == pytest.approx(max(scores[1] for scores in expected), abs=1e-4)


def test_openings_skip_headings():
    passage = "Annual report of 2011\nThe mill was built by Anna Berg in 1875. It burned down twice. It has 12 wheels."
    assert [c.sentence.text for c in openings([passage])] == [
        "The mill was built by Anna Berg in 1875. It burned down twice."
    ]
    assert [c.sentence.text for c in openings(["Only a title"])] == ["Only a title"]


def test_openings_begin_where_a_sentence_begins():
    """The lines of a table's cell end with a full stop, too; and Chinese sentences have no spaces to count words by."""
    table = "Part Description Price\nA-100 Bearing with two sealed ball $45\nbearings, a plate and a lower shaft.\n"
    assert openings([f"{table}Each part is checked before it is sold."])[0].sentence.text.startswith("Each part")
    chinese = "城市介绍\n北京是中华人民共和国的首都。故宫建于1406年。"
    assert openings([chinese])[0].sentence.text.startswith("北京是中华人民共和国的首都。")
