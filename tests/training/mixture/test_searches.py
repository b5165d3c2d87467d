"""Questions of two hops, the training rows made of them, and what is measured with them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from grit_app.rag.searching.protocol import OFFER, query_in
from tests.training.corpus_files import write_lines
from training.config import DataFile
from training.data.formats import open_datasets
from training.evaluation import searches
from training.mixture.corpus import MixtureConfig
from training.mixture.hops import _joined, _runs, two_hop_questions
from training.mixture.records import is_held_out, read_records
from training.mixture.rules import run

PLACES = ["Bergen", "Oslo", "Turku", "Malmo", "Lahti", "Vaasa"]


def records(count: int = 80) -> list[dict[str, Any]]:
    """Two passages an article: who lived where, and when the place was founded."""
    made = []
    for number in range(count):
        place = f"{PLACES[number % len(PLACES)]} {chr(65 + number // len(PLACES))}"
        rows = [
            (f"Where did person {number} live?", f"Person {number} lived in {place} by the sea.", place),
            (f"When was {place} founded?", f"The town was founded in {1500 + number} by monks.", str(1500 + number)),
        ]
        made += [
            {
                "id": f"{number}-{part}", "title": f"Article {number}", "question": question, "context": context,
                "answers": [{"text": text, "start": 0}], "source": "wiki",
            }
            for part, (question, context, text) in enumerate(rows)
        ]  # fmt: skip
    return made


def test_a_question_of_two_hops_names_neither_answer() -> None:
    hops = two_hop_questions(records(), random.Random(0))
    assert len(hops) == 80
    for hop in hops:
        name, last = hop.first["answers"][0]["text"], hop.second["answers"][0]["text"]
        assert hop.first["title"] == hop.second["title"] and hop.first["context"] != hop.second["context"]
        assert hop.first["question"] in hop.question and name not in hop.question and last not in hop.question
        assert name in hop.second["question"]


def test_a_part_of_a_longer_name_is_no_name_and_an_article_goes_with_it() -> None:
    runs = _runs("What does New Scotland Yard have?")
    assert "New Scotland Yard" in runs and not {"Scotland", "Scotland Yard", "New"} & set(runs)
    assert _joined("Who was first?", "Where was the Kalmar Union signed?", "Kalmar Union") == (
        'Where was the answer to "Who was first?" signed?'
    )


def test_rows_ask_for_what_is_missing_and_answer_once_it_is_there(tmp_path: Path) -> None:
    write_lines(tmp_path / "qa_squadshifts.jsonl.xz", records())
    for name in ("qa_fairytale", "qa_qamr", "qa_selqa"):
        write_lines(tmp_path / f"{name}.jsonl.xz", [])
    config = MixtureConfig(
        data_dir=tmp_path, output_dir=tmp_path / "out", rules=["searches"], question_sources=["wiki"], distractors=3
    )
    run(config)
    (dataset,) = open_datasets([DataFile(path=str(tmp_path / "out" / "train"))])
    rows = [dataset.rows[index] for index in range(len(dataset))]
    assert dataset.kind == "rag" and all(dataset[index] for index in range(len(dataset)))
    assert all(OFFER in row["question"] for row in rows)
    originals = {r["question"]: r for r in read_records(tmp_path / "qa_squadshifts.jsonl.xz") if not is_held_out(r)}
    asks = [row for row in rows if query_in(row["answer"])]
    after = {row["question"]: row for row in rows if len(row["gold"]) == 2}
    assert asks and len(asks) == len(after)
    for row in asks:
        query = query_in(row["answer"])
        assert query in originals and originals[query]["context"] not in row["passages"]
        done = after[f"{row['question']}\nSearched for: {query}"]
        assert {row["passages"][0], originals[query]["context"]} == set(done["passages"][:2])
        assert done["answer"] == originals[query]["answers"][0]["text"]
    plain = [row for row in rows if row not in asks and len(row["gold"]) < 2]
    assert {row["answerable"] for row in plain} == {True, False}


def test_both_ways_are_measured_over_the_same_questions(tiny_model: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "dev" / "squadshifts_dev.jsonl.xz", records(8))
    hops, others = searches.questions_of(tmp_path, 2)
    assert len(hops) == 2 and len(others) == 12
    rows = searches.measure(tiny_model, hops, others, k=1, searches=1)
    ways = {row["way"] for row in rows}
    assert ways == {"one search", "more passages", "own searches", "right passages"}
    found = {(row["way"], row["metric"]): row for row in rows}
    assert found["right passages", "found"]["value"] == 100
    assert found["own searches", "match"]["n"] == 2 and "difference" in found["own searches", "f1"]
    assert found["own searches", "cached_tokens"]["value"] > 0
