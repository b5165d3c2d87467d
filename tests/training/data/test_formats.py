"""Rows of every published form, and a sentence with file and line for every bad one."""

from __future__ import annotations

import gzip
import json
import lzma
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from training.config import ConfigError, DataFile
from training.data import formats
from training.data.formats import (
    ContrastiveSample,
    DataError,
    GenerativeSample,
    JsonLines,
    RagSample,
    Text,
    open_datasets,
    text_hash,
)

ROWS = {
    "plain.jsonl": [{"query": "q", "pos": ["p"], "neg": ["n", "m"], "score": 3}],
    "instructed.jsonl": [{"query": ["i", "q"], "pos": [["", "p"], ["j", "p2"]], "neg": [["", "n"]]}],
    "text.jsonl": [{"text": "once upon a time"}],
    "turns.jsonl": [{"text": ["hi", "hello", "bye", "see you"]}],
    "rag.jsonl": [{"question": "q?", "passages": ["a", "b"], "gold": [1], "answer": "b"}],
}
SAMPLES = {
    "plain.jsonl": ContrastiveSample(Text("", "q"), [Text("", "p")], [Text("", "n"), Text("", "m")]),
    "instructed.jsonl": ContrastiveSample(Text("i", "q"), [Text("", "p"), Text("j", "p2")], [Text("", "n")]),
    "text.jsonl": GenerativeSample("once upon a time"),
    "turns.jsonl": GenerativeSample(["hi", "hello", "bye", "see you"]),
    "rag.jsonl": RagSample("q?", ["a", "b"], [1], "b", True),
}


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_a_folder_holds_a_data_set_per_file(tmp_path: Path) -> None:
    """Packed or not, each file becomes a data set whose kind is told by its keys."""
    for name, rows in ROWS.items():
        (tmp_path / name).write_bytes(lines(rows))
    (tmp_path / "notes.txt").write_text("not data")
    found = {dataset.name: dataset for dataset in open_datasets([DataFile(path=str(tmp_path))])}
    assert {name: dataset[0] for name, dataset in found.items()} == SAMPLES


def test_packed_files_read_as_plain_ones(tmp_path: Path) -> None:
    rows = ROWS["turns.jsonl"] * 3
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(rows)))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(lines(rows)))
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.xz"):
        assert [JsonLines(tmp_path / name)[i] for i in range(3)] == rows


def test_default_instruction_and_limit(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS["plain.jsonl"] * 5))
    (dataset,) = open_datasets([DataFile(path=str(tmp_path / "a.jsonl"), instruction="find", limit=2)])
    assert len(dataset) == 2 and dataset[1].query == Text("find", "q")


BAD = [
    ("not json", "not a JSON object"),
    ("[1]", "must be a JSON object"),
    ('{"query": "q", "pos": []}', '"pos" is empty'),
    ('{"query": "q", "pos": [["a", "b", "c"]]}', '"pos" must be a text or'),
    ('{"query": 3, "pos": ["p"]}', '"query" must be a text'),
]


@pytest.mark.parametrize(("line", "sentence"), BAD)
def test_bad_line_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    """The number counts lines of the file, blank ones included, from 1."""
    (tmp_path / "bad.jsonl").write_bytes(lines(ROWS["plain.jsonl"] * 2) + b"\n" + line.encode() + b"\n")
    (dataset,) = open_datasets([DataFile(path=str(tmp_path / "bad.jsonl"))])
    with pytest.raises(DataError, match=r"bad\.jsonl, line 4") as error:
        dataset[2]
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": ["hi"]}, "has 1 turns"),
        ({"text": ["hi", "a", "b"]}, "must be even"),
        ({"text": 5}, "must be a text or a list"),
        ({"question": "q", "passages": ["a"], "gold": [1], "answer": "x"}, "from 0 to 0"),
        ({"question": "q", "passages": ["a"], "gold": [0], "answer": " "}, '"answer" is empty'),
        ({"question": "q", "passages": [], "gold": [0], "answer": "x"}, '"passages" must be'),
        ({"question": "", "passages": ["a"], "gold": [0], "answer": "x"}, '"question" must be'),
        ({"something": 1}, "cannot be told"),
    ],
)
def test_bad_rows_of_the_other_kinds(tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    (tmp_path / "bad.jsonl").write_bytes(lines([row]))
    with pytest.raises(DataError, match="line 1") as error:
        _ = open_datasets([DataFile(path=str(tmp_path / "bad.jsonl"))])[0][0]
    assert sentence in str(error.value)


def test_missing_empty_and_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    (tmp_path / "cut.jsonl.xz").write_bytes(lzma.compress(lines(ROWS["text.jsonl"] * 50))[:-20])
    (tmp_path / "folder").mkdir()
    for name, sentence in [
        ("gone.jsonl", "is not there"),
        ("empty.jsonl", "is empty"),
        ("cut.jsonl.xz", "cannot be read"),
        ("folder", "holds no"),
    ]:
        with pytest.raises(DataError, match=sentence):
            open_datasets([DataFile(path=str(tmp_path / name))])


def test_a_hub_repository_of_line_files_is_a_data_set_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MEDI2 comes: hundreds of data sets, a file each. Files that are not for training stay out."""
    (tmp_path / "more").mkdir()
    for name in ("b.jsonl", "a.jsonl.gz", "more/c.jsonl", "dev.jsonl", "more/b-test.jsonl", "README.md"):
        text = lines([{"query": ["i", name], "pos": [["", "p"]], "neg": [["", "n"]]}])
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    asked = []

    def fetch(name: str, **settings: Any) -> str:
        asked.append((name, settings["repo_type"], settings["allow_patterns"]))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    found = open_datasets([DataFile(path="GritLM/MEDI-2.1", own_negatives_only=True)])
    assert asked == [("GritLM/MEDI-2.1", "dataset", ["*.jsonl", "*.jsonl.gz", "*.jsonl.xz"])]
    samples = [dataset[0] for dataset in found]
    assert [s.query.text for s in samples if isinstance(s, ContrastiveSample)] == [
        "a.jsonl.gz",
        "b.jsonl",
        "more/c.jsonl",
    ]
    assert all(dataset.file.own_negatives_only for dataset in found)


def test_a_hub_data_set_of_another_form_is_read_by_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet and the like: rows of the train split, named by number where one cannot be used."""
    datasets = pytest.importorskip("datasets")

    def absent(name: str, **_: Any) -> str:
        raise FileNotFoundError(name)

    rows = datasets.Dataset.from_list([{"text": ["hi", "hello"]}, {"text": ["hi", "a longer one"]}, {"text": ["hi"]}])
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", absent)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or rows)
    (dataset,) = open_datasets([DataFile(path="GritLM/tulu2", limit=2)])
    assert asked == [("GritLM/tulu2", "train")]
    assert (dataset.kind, len(dataset)) == ("generative", 2) and dataset[0] == GenerativeSample(["hi", "hello"])
    assert dataset.longest(1) == [1]
    with pytest.raises(DataError, match=r"GritLM/tulu2, row 2.*has 1 turns"):
        dataset[2]
    rows = rows.map(lambda row: {"text": [turn.upper() for turn in row["text"]]})
    (other,) = open_datasets([DataFile(path="GritLM/tulu2", limit=2)])
    assert other.fingerprint != dataset.fingerprint, "other text of equal number is another data set"


def test_a_hub_name_that_cannot_be_had_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="nobody/nothing is neither a file, a folder, nor a data set"):
        open_datasets([DataFile(path="nobody/nothing")])


def test_unanswerable_rows_have_no_gold(tmp_path: Path) -> None:
    row = {"question": "q", "passages": ["a"], "gold": [0], "answer": "", "answerable": False}
    (tmp_path / "r.jsonl").write_bytes(lines([row]))
    assert open_datasets([DataFile(path=str(tmp_path / "r.jsonl"))])[0][0] == RagSample("q", ["a"], [], "", False)


def test_equal_texts_have_equal_hashes() -> None:
    assert text_hash(" a text\n") == text_hash("a text") != text_hash("a  text")
    assert 0 <= text_hash("x") < 2**63


def test_settings_that_cannot_be_are_sentences() -> None:
    for make, sentence in [
        (lambda: DataFile(path="x", weight=0), "weight of x must be above 0"),
        (lambda: DataFile(path="x", limit=0), "limit of x"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            make()


def test_half_a_character_is_read_as_a_replacement_sign(tmp_path: Path) -> None:
    """JSON can spell half of an emoji; no tokenizer can encode it, and a run died of it in the middle of a step."""
    text = r'{"query": "a \ud83d b", "pos": ["\ud83d\ude00 whole"], "neg": ["\ude00 half"]}' + "\n"
    (tmp_path / "half.jsonl").write_text(text, encoding="utf-8")
    (dataset,) = open_datasets([DataFile(path=str(tmp_path / "half.jsonl"))])
    assert dataset[0] == ContrastiveSample(
        Text("", "a \ufffd b"), [Text("", "\U0001f600 whole")], [Text("", "\ufffd half")]
    )
    text_hash(dataset[0].query.text)
    (tmp_path / "raw.jsonl").write_bytes(b'{"query": "a \xed\xa0\xbd", "pos": ["b"]}\n')
    with pytest.raises(DataError, match=r"raw.jsonl, line 1: not a JSON object"):
        JsonLines(tmp_path / "raw.jsonl")[0]


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    """Other text of equal length is another file: a run must not go on with it."""
    prints = []
    for word in ("wax", "bee"):
        (tmp_path / "a.jsonl").write_bytes(lines([{"text": f"once {word} upon"}] * 3))
        prints.append(open_datasets([DataFile(path=str(tmp_path / "a.jsonl"))])[0].fingerprint)
    assert prints[0] != prints[1]


def test_lines_are_found_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked through block by block, so that a corpus larger than memory opens."""
    monkeypatch.setattr(formats, "BLOCK_BYTES", 7)
    rows = [{"text": "river " * n} for n in range(1, 9)]
    (tmp_path / "a.jsonl").write_bytes(b"\n  \n" + b"\n \t\n".join(lines([row]).strip() for row in rows) + b"\n   ")
    found = JsonLines(tmp_path / "a.jsonl")
    assert [found[i] for i in range(len(found))] == rows
    assert found.where(0) == "a.jsonl, line 3" and found.where(7) == "a.jsonl, line 17"


def test_a_mapped_file_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of 20 GB must open: what is held are the places of its lines, and one block while they are found."""
    monkeypatch.setattr(formats, "BLOCK_BYTES", 2**20)
    row = lines([{"text": "river " * 20_000}])
    (tmp_path / "a.jsonl").write_bytes(row * 200)
    tracemalloc.start()
    try:
        found = JsonLines(tmp_path / "a.jsonl")
        found.content_hash()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 200 and len(row) * 200 > 20 * 2**20
    assert peak < 4 * 2**20
