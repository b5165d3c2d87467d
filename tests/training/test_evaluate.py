"""The evaluation: its measures against naive ones, and the whole command on a tiny suite and a tiny model."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from grit_app.benchmark.inputs.questions import read_rows
from grit_app.errors import InputError
from grit_app.gritlm import GritConfig, GritLM
from training import evaluate
from training.evaluation import calibrate, language, ranking, samples, talk
from training.evaluation.baselines import PlainBM25, TfIdf, overlap_sentence
from training.evaluation.correlation import spearman
from training.evaluation.documents import QUESTIONS, file_questions, headings_recall
from training.evaluation.suite import load_suite
from training.fit.evidence import accuracy, fit, prepare

THINGS = ("mill", "bridge", "school", "tower", "harbour", "library", "station", "castle")
NAMES = ("Anna Berg", "Otto Lang", "Mary Hill", "John Wood", "Karl Stein", "Rosa Feld", "Ines Mar", "Paul Weiss")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A suite of the published form, made by rules."""
    made = tmp_path_factory.mktemp("suite")

    def row(index: int, source: str) -> dict[str, Any]:
        thing, name, year = THINGS[index % 8], NAMES[(index * 3) % 8], 1800 + index
        context = (
            f"It stands by a river. The {thing} number {index} was built by {name} in {year}. People like to see it."
        )
        question = f"Who built the {thing} number {index}?"
        return {"title": f"{source} {index}", "context": context, "question": question,
                "answers": [{"text": name}], "source": source}  # fmt: skip

    squad = [row(i, "squadshifts_new_wiki") for i in range(8)] + [row(i + 8, "squadshifts_reddit") for i in range(8)]
    nq = [row(i + 16, "nq_qed") | {"answers": [NAMES[((i + 16) * 3) % 8]]} for i in range(8)]
    sts = [{"sentence1": a, "sentence2": b, "score": 5.0 * (a == b)} for a in THINGS[:4] for b in THINGS[:4]]
    documents = [
        {"type": "doc", "id": str(i), "title": f"The {t}", "text": f"All about a {t}."} for i, t in enumerate(THINGS)
    ]
    queries = [{"type": "query", "id": "q", "text": "Tell me about a mill.", "relevant": {"0": 1}}]
    files = {"squadshifts_dev": squad, "nq_qed_dev": nq, "sts_b_dev": sts, "cisi": documents + queries,
             "fairytaleqa_val": [{"context": "Once upon a time there was a mill."}]}  # fmt: skip
    for name, rows in files.items():
        (made / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return made


@pytest.fixture
def checkpoint(tiny_model_folder, tmp_path):
    for file in tiny_model_folder("mistral").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    GritConfig(answer_mode="quote", vector_weight=1.0, default_k=2).save(tmp_path)
    return tmp_path


def test_a_collapsed_model_correlates_with_nothing():
    """Ties are averaged; all alike is 0, neither nan nor a warning."""
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(math.sqrt(0.75))
    assert spearman(np.ones(4), np.arange(4.0)) == 0.0


def test_ndcg_by_hand():
    relevant = [False, True, False, True]
    found = ranking.ndcg(np.array([0.9, 0.8, 0.7, 0.1]), relevant)
    best = 1 / math.log2(2) + 1 / math.log2(3)
    assert found == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / best)
    assert ranking.ndcg(np.array([0.0, 1.0]), [False, True]) == 1.0
    assert ranking.ndcg(np.array([1.0]), [False]) == 0.0


def test_ties_count_against_a_system():
    """A system that gives every passage the same score must not look perfect."""
    equal = ranking._by_scores(lambda question: np.ones(4), ["a", "b"], [0, 3])
    assert equal == {"recall@1": 0.5, "recall@5": 1.0, "mrr": pytest.approx((1 + 1 / 4) / 2)}
    assert ranking._by_scores(lambda question: np.zeros(4), ["a"], [0])["recall@5"] == 0.0


def test_baselines_find_by_words():
    texts = ["The mill stands by the river.", "A bridge of stone.", "Nothing here."]
    assert int(PlainBM25(texts).scores("Where is the mill?").argmax()) == 0
    assert not PlainBM25(texts).scores("zebra").any()
    assert int(TfIdf(texts).scores("stone bridge").argmax()) == 1
    assert overlap_sentence("Who built the mill?", "It rains. Anna built the mill. The end.") == "Anna built the mill."


def test_bits_per_byte_equals_a_plain_forward(tiny_model):
    text = "The river rises in the mountains and reaches the sea."
    ids = [tiny_model.prompts.bos_id, *tiny_model.prompts.continuation(text)]
    with tiny_model.lock, torch.inference_mode():
        logits = tiny_model.hf_model(torch.tensor([ids]), is_causal=True).logits[0].double()
    total = sum(-float(torch.log_softmax(logits[i], -1)[ids[i + 1]]) for i in range(len(ids) - 1))
    expected = total / math.log(2) / len(text.encode())
    assert language.bits_per_byte(tiny_model, [text]) == pytest.approx(expected, rel=1e-4)


def test_talk_is_judged_by_its_end_its_loops_and_its_subject(tmp_path):
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(json.dumps({"request": text, "about": ["mill"]}) + "\n" for text in "abcd"))
    answers = {
        "a": ("The MILL stands here.", 5),
        "b": ("A bridge.", 3),
        "c": ("The mill. " * 30, 90),
        "d": ("A mill", talk.NEW_TOKENS),
    }

    class Chat:
        config = SimpleNamespace(small_talk_similarity=0.0)

        def stream(self, messages, max_new_tokens):
            text, tokens = answers[messages[-1]["content"]]
            return SimpleNamespace(read_all=lambda: text, stats=SimpleNamespace(new_tokens=tokens))

    assert talk.talk(Chat(), requests) == {"ended": 0.75, "no_loop": 0.75, "on_subject": 0.75, "good": 0.25}
    assert len({row["request"] for row in read_rows(talk.REQUESTS)}) == 50


def test_samples_are_a_table_whatever_the_answers_hold():
    rows = iter([("Who?", "I | me\nand more"), ("Where? (a.pdf)", "There. [page 3]")])
    assert samples.table(rows).split("\n")[2:] == [
        "| Who? | I \\| me / and more |",
        "| Where? (a.pdf) | There. [page 3] |",
    ]


def test_threshold_and_rates_by_hand():
    answerable, unanswerable = np.array([0.9, 0.8, 0.3]), np.array([0.1, 0.2, 0.85])
    assert calibrate.rates(answerable, unanswerable, 0.5) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    clear = calibrate.best_threshold(np.array([0.7, 0.8]), np.array([0.2, 0.3]))
    assert 0.3 < clear <= 0.7


def test_calibration_prefers_words_over_random_vectors_and_reports_the_other_half(tiny_model, folder):
    config, report = calibrate.calibrate(tiny_model, load_suite(folder))
    assert config.vector_weight <= 0.5 and report["recall@5"] >= 0.9
    assert 0 < config.answerable_threshold < 1
    assert report["questions"] == 12  # half of 24


def test_evaluate_gives_flat_numbers_and_the_same_ones_again(tiny_model, folder):
    first = evaluate.evaluate(tiny_model, folder, limit=9)
    assert first == evaluate.evaluate(tiny_model, str(folder), limit=9)
    assert {"sts/model", "retrieval/fused/recall@5", "answers/all/gold/quote/contains", "bits_per_byte/stories"} <= set(
        first
    )
    assert all(isinstance(value, float) and math.isfinite(value) for value in first.values())


def test_the_command_measures_every_part_and_writes_the_calibration(checkpoint, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "minilm", lambda: None)  # a baseline of 90 MB; it has no part in what is tested
    out = tmp_path / "out" / "evaluation.json"
    arguments = ["--model", str(checkpoint), "--suite", str(folder), "--json", str(out), "--limit", "6", "--calibrate"]
    assert evaluate.main(arguments) == 0
    data = json.loads(out.read_text(encoding="utf-8"))
    assert set(evaluate.PARTS) <= set(data) and data["model"]["parameters"] > 0
    saved = GritConfig.load(checkpoint)
    assert saved.vector_weight == data["calibration"]["vector_weight"] != 1.0
    assert data["refusals"]["threshold"] == saved.answerable_threshold
    assert data["answers"]["all"]["gold"]["quote"]["contains"] > 50  # words find the sentence, whatever the model is
    assert set(data["strategies"]["short"]) >= {"rag_doc_query", "docs_cache", "docs_query_cache"}
    assert "refusals (" in capsys.readouterr().out


def test_questions_over_files_count_answers_and_pages(tiny_model, tmp_path):
    """One right, one with a wrong page, one with a wrong answer."""
    (tmp_path / "mill.txt").write_text("The mill was built by Anna Berg. It burned down in 1902.", encoding="utf-8")
    rows = [
        {"file": "mill.txt", "question": "Who built the mill?", "pages": [1], "answers": ["Anna Berg"]},
        {"file": "mill.txt", "question": "When did it burn down?", "pages": [7], "answers": ["1902"]},
        {"file": "mill.txt", "question": "Who built the mill?", "pages": [1], "answers": ["Otto Lang"]},
        {"file": "mill.txt", "question": "When did it burn down?", "pages": [1], "answers": ["1902"]},
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = GritLM(tiny_model.hf_model, tiny_model.tokenizer, GritConfig(answer_mode="quote", vector_weight=0.0))
    found = file_questions(model, tmp_path, questions)
    assert found == {"right_answer": 0.75, "right_page": 0.75, "both": 0.5, "n": 4.0}
    with pytest.raises(InputError, match=r"gone\.txt"):
        questions.write_text(json.dumps(rows[0] | {"file": "gone.txt"}), encoding="utf-8")
        file_questions(model, tmp_path, questions)


def test_what_headings_bring_is_told_for_each_way_to_use_them(tiny_model, tmp_path):
    """The answers stand far behind the headings that alone tell one from the other."""
    body = "Boats lie there in long rows and the water is calm. " * 40
    text = f"# Harbour\n\n{body}It opens at nine.\n\n# Museum\n\n{body}It opens at ten.\n"
    (tmp_path / "town.md").write_text(text, encoding="utf-8")
    rows = [
        {"file": "town.md", "question": "When is the museum opened?", "pages": [1], "answers": ["ten"]},
        {"file": "town.md", "question": "When is the harbour opened?", "pages": [1], "answers": ["nine"]},
        {"file": "town.md", "question": "When is the harbour opened?", "pages": [2], "answers": ["nine"]},
    ]
    questions = tmp_path / "town.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = GritLM(tiny_model.hf_model, tiny_model.tokenizer, GritConfig(vector_weight=0.0))
    found = headings_recall(model, tmp_path, [questions])
    assert len(found) == 8 and all(rates["n"] == 3.0 for rates in found.values())
    assert found["town/keywords with headings"]["recall@1"] == pytest.approx(2 / 3)
    assert found["town/keywords text"]["recall@1"] == 0.0  # a passage that is only named like it comes first
    for embedded in ("text", "with headings"):
        assert found[f"town/vectors {embedded}, keywords with headings"] == found["town/keywords with headings"]


def test_the_questions_that_come_along_are_whole():
    rows = list(read_rows(QUESTIONS))
    assert len(rows) == 20
    for row in rows:
        assert set(row) == {"file", "question", "pages", "answers"} and row["pages"] and row["answers"]


def test_what_cannot_be_measured_is_a_sentence(folder, tmp_path, checkpoint, capsys):
    assert evaluate.main(["--model", str(checkpoint), "--suite", str(tmp_path / "none"), "--limit", "6"]) == 2
    assert "holds no sts_b_dev" in capsys.readouterr().err
    assert evaluate.main(["--model", str(checkpoint), "--suite", str(folder), "--parts", "speeed"]) == 2
    assert "no part 'speeed'" in capsys.readouterr().err
    assert evaluate.main(["--model", str(checkpoint), "--suite", str(folder), "--limit", "2"]) == 2


def test_weights_of_evidence_are_found_again(folder, tmp_path):
    """From questions whose answer stands in the sentence that shares the question's words."""
    generator = random.Random(0)
    rows = []
    for _ in range(60):
        words = [generator.choice(THINGS) + str(generator.randrange(9)) for _ in range(3)]
        sentences = [f"The {word} is here." for word in words]
        rows.append({"question": f"Where is {words[1]}?", "context": " ".join(sentences), "answers": [words[1]]})
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    from grit_app.benchmark.inputs.questions import read_questions

    prepared = prepare(read_questions(path))
    weights = fit(prepared, epochs=6)
    assert len(prepared) > 50 and weights[0] > 0
    assert accuracy(prepared, weights) > 0.95


def test_a_suite_drawn_smaller_keeps_every_set(folder):
    small = load_suite(folder).smaller(6)
    assert {item.set for item in small.items} == {"wiki", "users", "nq"} and len(small.items) < 25
