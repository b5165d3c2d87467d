"""The GRIT data made by rules: forms that training reads, honest negatives, nothing held out in it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.corpus_files import paragraph, question_records, sentence, write_lines
from training.config import DataFile
from training.data.formats import open_datasets
from training.mixture.corpus import InstructionConfig, MixtureConfig, holds
from training.mixture.records import CorpusError, is_held_out, read_records
from training.mixture.rules import run

RULES = [
    "questions", "squad", "sections", "openings", "paraphrases", "definitions", "medical", "intents", "answers",
    "cloze", "chats", "own_talk",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that a rule reads, small."""
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)
    titles = [f"Article {i}" for i in range(160)]
    questions = question_records(rng, 160)
    half = len(questions) // 2
    unclear = [record | {"source": "squadshifts_reddit", "title": "Users"} for record in question_records(rng, 2)]
    write_lines(folder / "qa_squadshifts.jsonl.xz", [r | {"source": "wiki"} for r in questions[:half]] + unclear)
    write_lines(
        folder / "qa_fairytale.jsonl.xz", [r | {"answers": [r["answers"][0]["text"]]} for r in questions[half:]]
    )
    single = [
        r | {"title": None, "context": f"{sentence(rng, 5)} Code {i}x.", "answers": [f"{i}x"], "question": f"Code {i}?"}
        for i, r in enumerate(questions[:30])
    ]
    write_lines(folder / "qa_qamr.jsonl.xz", single)
    write_lines(folder / "qa_selqa.jsonl.xz", questions[-6:])
    write_lines(
        folder / "pairs_squad_train_questions.jsonl.xz",
        [{"query": sentence(rng), "positive": sentence(rng), "title": t} for t in titles],
    )
    sections = [
        {"query": f"{t}: Part {i}", "positive": paragraph(rng, 2), "title": t} for t in titles for i in range(3)
    ]
    write_lines(folder / "pairs_wikipedia_section.jsonl.xz", sections)
    write_lines(folder / "wikipedia.jsonl.xz", [{"title": t, "text": f"{sentence(rng)}\n{facts(rng)}"} for t in titles])
    write_lines(
        folder / "pairs_paraphrase.jsonl.xz", [{"sentence1": sentence(rng), "sentence2": sentence(rng)} for _ in titles]
    )
    words = [{"words": [f"word{i}"], "definition": sentence(rng), "examples": []} for i in range(160)]
    write_lines(folder / "dictionary_wordnet.jsonl.xz", words)
    write_lines(
        folder / "glossary_textbooks.jsonl.xz", [{"term": f"term {i}", "definition": sentence(rng)} for i in range(160)]
    )
    write_lines(
        folder / "qa_medquad.jsonl.xz",
        [{"question": f"What of {i}?", "answer": paragraph(rng, 2), "focus": f"F{i % 40}"} for i in range(160)],
    )
    write_lines(
        folder / "intents_clinc150.jsonl.xz", [{"text": f"say {i}", "label": f"intent {i % 8}"} for i in range(160)]
    )
    output = {"instruction": "Say it.", "input": "", "output": "It."}
    write_lines(
        folder / "instruct_made.jsonl.xz", [output | {"source": "made_glossary", "input": str(i)} for i in range(160)]
    )
    write_lines(
        folder / "instruct_open.jsonl.xz",
        [output | {"source": ("llms_from_scratch", "gsm8k")[i % 2], "input": str(i)} for i in range(160)],
    )
    return folder


def facts(rng: random.Random) -> str:
    """Running text with names and numbers to ask for."""
    return " ".join(
        f"The old mill number {rng.randint(100, 999)} by the river was built in {rng.randint(1500, 1999)} by "
        f"{rng.choice(('Anna', 'Karl'))} {rng.choice(('Berg', 'Lund', 'Holm'))} with {rng.randint(10, 99)} men."
        for _ in range(8)
    )


@pytest.fixture(scope="module")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    run(settings(corpus, folder))
    return folder


def settings(corpus: Path, output_dir: Path, **changes: Any) -> MixtureConfig:
    values: dict[str, Any] = {
        "data_dir": corpus,
        "output_dir": output_dir,
        "question_sources": ["wiki"],
        "rules": RULES,
    }
    return MixtureConfig(**(values | changes))


def rows(folder: Path, rule: str, part: str = "train") -> list[dict[str, Any]]:
    with (folder / part / f"{rule}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def originals(corpus: Path) -> Iterator[dict[str, Any]]:
    for name in ("qa_squadshifts", "qa_fairytale", "qa_qamr", "qa_selqa"):
        yield from read_records(corpus / f"{name}.jsonl.xz")


def test_training_reads_every_row(made: Path) -> None:
    """The files are in the forms of training.data.formats; each row is parsed, not only the first."""
    datasets = open_datasets([DataFile(path=str(made / "train"))])
    kinds = {dataset.name: dataset.kind for dataset in datasets}
    assert kinds["answers.jsonl"] == "rag" and kinds["chats.jsonl"] == "generative"
    assert sum(kind == "contrastive" for kind in kinds.values()) == 8
    for dataset in datasets:
        assert len(dataset) > 5
        for index in range(len(dataset)):
            dataset[index]


def test_no_distractor_holds_the_answer(made: Path, corpus: Path) -> None:
    """Neither in hard negatives nor in the passages of a question that shall be refused."""
    answers = {r["question"]: [a if isinstance(a, str) else a["text"] for a in r["answers"]] for r in originals(corpus)}
    refused = 0
    for row in rows(made, "answers"):
        words = answers[row["question"]][0].lower()
        passages = [p.lower().rstrip(".").split() for p in row["passages"]]
        tokens = [[w.strip(".") for w in p] for p in passages]
        if row["answerable"]:
            assert words in tokens[row["gold"][0]]
            tokens = tokens[1:]
        else:
            refused += 1
            assert row["gold"] == [] and row["passages"]
        assert not any(words in passage for passage in tokens)
    assert 0.15 < refused / len(rows(made, "answers")) < 0.35
    for row in rows(made, "questions"):
        assert row["pos"][0] not in row["neg"]


def test_negatives_come_from_the_same_article_first(made: Path) -> None:
    titles = {row["pos"][0]: row["query"].split(":")[0] for row in rows(made, "sections")}
    with_negatives = [row for row in rows(made, "sections") if row["neg"]]
    assert len(with_negatives) > 100
    for row in with_negatives:
        assert {titles[n] for n in row["neg"]} == {row["query"].split(":")[0]}


def test_intent_negatives_have_other_intents(made: Path, corpus: Path) -> None:
    label = {r["text"]: r["label"] for r in read_records(corpus / "intents_clinc150.jsonl.xz")}
    for row in rows(made, "intents"):
        assert label[row["pos"][0]] == label[row["query"]] and row["pos"][0] != row["query"]
        assert all(label[n] != label[row["query"]] for n in row["neg"])


def test_made_questions_have_their_answer_in_the_gold_passage_alone(made: Path) -> None:
    found = rows(made, "cloze")
    assert len(found) > 100 and 0.1 < sum(not row["answerable"] for row in found) / len(found) < 0.45
    for row in found:
        if row["answerable"]:
            assert row["answer"] in row["passages"][0]
            assert not any(holds(passage, [row["answer"]]) for passage in row["passages"][1:])


def test_talk_about_the_app_is_in_the_training_file_alone(made: Path) -> None:
    training, held_out = (json.dumps(rows(made, "own_talk", part)) for part in ("train", "held_out"))
    assert training.count('"Who are you?"') == 1 and "Who are you?" not in held_out


def test_a_title_decides_for_all_records_of_its_article(corpus: Path) -> None:
    """In every file the same, so questions on a held-out article are not trained on either."""
    for name in ("qa_squadshifts", "pairs_wikipedia_section", "wikipedia"):
        records = list(read_records(corpus / f"{name}.jsonl.xz"))
        kept = {r["title"] for r in records if not is_held_out(r, 3)}
        held = {r["title"] for r in records if is_held_out(r, 3)}
        assert kept and held and not kept & held


def test_held_out_articles_are_only_in_the_held_out_files(made: Path, corpus: Path) -> None:
    held = {r["context"] for r in originals(corpus) if is_held_out(r)}
    assert held
    trained = {text for row in rows(made, "questions") for text in (*row["pos"], *row["neg"])}
    trained |= {passage for row in rows(made, "answers") for passage in row["passages"]}
    assert not held & trained
    assert {row["pos"][0] for row in rows(made, "questions", "held_out")} <= held


def test_sources_without_a_licence_chain_are_left_out(made: Path, corpus: Path) -> None:
    users = {r["context"] for r in originals(corpus) if r["source"] == "squadshifts_reddit"}
    assert users and not users & {row["pos"][0] for row in rows(made, "questions")}
    assert all("gsm8k" not in json.dumps(row) for row in rows(made, "chats"))


def test_the_same_seed_makes_the_same_files_and_fraction_scales_them(corpus: Path, made: Path, tmp_path: Path) -> None:
    run(settings(corpus, tmp_path / "again"))
    names = sorted(path.name for path in (made / "train").iterdir())
    assert len(names) == len(RULES)
    for name in names:
        assert (tmp_path / "again" / "train" / name).read_bytes() == (made / "train" / name).read_bytes()
    counts = run(settings(corpus, tmp_path / "small", fraction=0.1, limits={"sections": 50}))
    assert counts["sections"] == 5 and counts["openings"] == len(rows(made, "openings")) // 10


def test_an_unknown_rule_is_a_sentence(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"names \['nothing'\]"):
        run(settings(corpus, tmp_path, limits={"nothing": 1}))


def test_a_missing_file_and_a_damaged_line_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"is not there\. Set data_dir"):
        list(read_records(tmp_path / "none.jsonl"))
    (tmp_path / "damaged.jsonl").write_text('{"title": "a"}\n{"title":\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"damaged\.jsonl, line 2: not a JSON object"):
        list(read_records(tmp_path / "damaged.jsonl"))


def test_whole_words_decide_whether_a_text_holds_an_answer() -> None:
    assert holds("In 1815 the war ended.", ["1815"]) and not holds("In 11815.", ["1815"])
    assert holds("THE WAR (cold)", ["war (Cold)"]) and not holds("warm", ["war"])
    assert not holds("anything", ["", " "])


@pytest.fixture(scope="module")
def served(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules of the served model, with instructions and cuts."""
    folder, rng = tmp_path_factory.mktemp("served"), random.Random(1)
    corpus = Path(shutil.copytree(corpus, folder / "corpus"))
    articles = [{"title": f"Article {i}", "text": "\n".join(paragraph(rng, 4) for _ in range(3))} for i in range(160)]
    write_lines(corpus / "wikipedia.jsonl.xz", articles)
    write_lines(
        corpus / "pairs_neighbours.jsonl.xz",
        [{"query": sentence(rng), "pos": [sentence(rng)], "neg": [sentence(rng)]} for _ in range(160)],
    )
    prompt = {"instruction": "Say", "input": "", "output": "It.", "source": "x", "template": "y"}
    write_lines(corpus / "instruct_p3_subset.jsonl.xz", [prompt | {"input": str(i)} for i in range(160)])
    rules = [
        "questions", "sections", "paraphrases", "subjects", "neighbours", "answers", "one_by_one", "hard_refusals",
        "long_answers", "prompted", "own_talk",
    ]  # fmt: skip
    instructions = {
        "questions": InstructionConfig(text="Find the answer", share=0.5),
        "paraphrases": InstructionConfig(text="Same meaning", both=True),
    }
    run(
        settings(
            corpus,
            folder,
            rules=rules,
            instructions=instructions,
            passage_characters=120,
            most_negatives={"sections": 1},
        )
    )
    return folder


def test_instructions_stand_before_a_part_of_the_queries(served: Path) -> None:
    asked = [isinstance(row["query"], list) for row in rows(served, "questions")]
    assert 0.4 < sum(asked) / len(asked) < 0.6
    assert all(isinstance(row["pos"][0], str) for row in rows(served, "questions"))
    for row in rows(served, "paraphrases"):
        assert row["query"][0] == row["pos"][0][0] == "Same meaning"
    assert all(len(row["neg"]) <= 1 for row in rows(served, "sections"))
    assert all(isinstance(row["query"], str) for row in rows(served, "subjects"))


def test_a_cut_passage_still_holds_its_answer(served: Path) -> None:
    for rule in ("answers", "one_by_one"):
        for row in rows(served, rule):
            assert all(len(passage) <= 120 for passage in row["passages"])
            if row["answerable"]:
                assert row["answer"].lower() in row["passages"][0].lower()


def test_hard_refusals_are_on_the_topic_and_without_the_answer(served: Path, corpus: Path) -> None:
    contexts: dict[str, str] = {}
    answers: dict[str, list[str]] = {}
    for record in originals(corpus):
        contexts[record["question"]] = record["context"]
        answers[record["question"]] = [a if isinstance(a, str) else a["text"] for a in record["answers"]]
    found = rows(served, "hard_refusals")
    assert len(found) > 50
    for row in found:
        assert not row["answerable"] and row["gold"] == []
        shared = set(row["passages"][0].split()) & set(contexts[row["question"]].split())
        assert len(shared) > 5, "the first passage is the question's own, without a sentence"
        assert not any(holds(passage, answers[row["question"]]) for passage in row["passages"])


def test_reading_one_by_one_is_over_one_passage(served: Path) -> None:
    found = rows(served, "one_by_one")
    assert all(len(row["passages"]) == 1 for row in found)
    assert 0.35 < sum(row["answerable"] for row in found) / len(found) < 0.65


def test_every_row_of_the_served_mixture_is_read(served: Path) -> None:
    for dataset in open_datasets([DataFile(path=str(served / "train"))]):
        assert all(dataset[index] for index in range(len(dataset)))
    talk = json.dumps(rows(served, "own_talk"))
    for request in ("Who are you?", "What can you do?", "What is an embedding?"):
        assert talk.count(json.dumps(request)) == 1
