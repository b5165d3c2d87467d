"""The command `python -m grit_app.ask`: JSON, exit status, sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grit_app import ask
from grit_app.gritlm import GritConfig
from grit_app.rag.strategies import STRATEGIES

QUESTION = "How many schools participated in the United States?"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("ask")
    (made / "study.txt").write_text(
        "The study took place in 2011. A total of 370 schools participated in the United States.", encoding="utf-8"
    )
    (made / "bees.txt").write_text("Bees make honey from nectar. They store it in combs.", encoding="utf-8")
    (made / "empty.txt").write_text("", encoding="utf-8")
    (made / "broken.pdf").write_bytes(b"%PDF-1.4 nothing of use")
    return made


@pytest.fixture(scope="session")
def checkpoint(tiny_model_folder, tmp_path_factory):
    """A tiny random model that searches by keywords: its vectors find nothing."""
    made = tmp_path_factory.mktemp("checkpoint")
    for file in tiny_model_folder("mistral").iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    GritConfig(answer_mode="quote", vector_weight=0.0, answerable_threshold=0.2, default_k=2).save(made)
    return made


@pytest.fixture
def run(checkpoint, capsys, monkeypatch):
    """`run("a.txt", "question", …)` → (exit status, stdout, stderr)."""
    for name in list(os.environ):
        if name.startswith("GRIT_"):
            monkeypatch.delenv(name)

    def call(*arguments):
        status = ask.main([str(a) for a in arguments] + ["--model", str(checkpoint), "--device", "cpu"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_json_holds_the_answer_and_nothing_else_is_on_stdout(run, folder):
    status, out, err = run(folder / "study.txt", folder / "bees.txt", QUESTION, "--json")
    data = json.loads(out)
    assert (status, err) == (0, "")
    assert data["answer"] == "A total of 370 schools participated in the United States. [1]"
    assert data["answerable"] is True
    assert data["citations"][0]["file"] == "study.txt" and data["citations"][0]["page"] == 1
    assert data["skipped"] == []


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_through_the_command(run, folder, name):
    status, out, _ = run(folder / "study.txt", QUESTION, "--strategy", name, "--json")
    data = json.loads(out)
    assert status == 0 and data["strategy"] == name
    assert (data["cached_tokens"] > 0) == STRATEGIES[name].caches_anything
    assert any("370" in citation["text"] for citation in data["citations"]) == STRATEGIES[name].retrieves


def test_a_refusal_is_a_reply(run, folder):
    status, out, err = run(folder / "bees.txt", "Who painted the chapel ceiling?", "--json")
    data = json.loads(out)
    assert (status, err, data["answerable"]) == (0, "", False)
    assert data["citations"]


def test_files_that_cannot_be_read_are_listed_and_the_others_answer(run, folder):
    status, out, err = run(
        folder / "empty.txt", folder / "broken.pdf", folder / "gone.pdf", folder / "study.txt", QUESTION, "--json"
    )
    skipped = {entry["file"]: entry["reason"] for entry in json.loads(out)["skipped"]}
    assert (status, err) == (0, "")
    assert set(skipped) == {"empty.txt", "broken.pdf", "gone.pdf"}
    assert all(name in reason for name, reason in skipped.items())


def test_a_notice_about_the_model_does_not_stand_beside_the_one_sentence(run, folder, monkeypatch):
    """On a machine with a GPU and without the large model's weights, stderr held two sentences."""
    from grit_app.gritlm.load import loading

    choose = loading.resolve_model
    monkeypatch.setattr(
        loading, "resolve_model", lambda *a: loading.ModelChoice(choose(*a).source, "The small model runs.")
    )
    status, out, err = run(folder / "broken.pdf", QUESTION)
    assert (status, out, err.count("\n")) == (2, "", 1) and "broken.pdf" in err
    status, out, err = run(folder / "study.txt", QUESTION)
    assert (status, err) == (0, "The small model runs.\n") and "370" in out


def test_a_guessed_encoding_is_told_and_can_be_chosen(run, tmp_path):
    path = tmp_path / "walls.txt"
    path.write_bytes("Wall 7 is called ЙШЩ. ".encode("cp1251") * 20)
    kept = ["--data_dir", tmp_path / "data", "--json"]
    for _ in range(2):  # the second finds the file already there
        status, out, _ = run(path, "What is wall 7 called?", *kept)
        assert status == 0 and "ЙШЩ" not in out and "a guess from its letters" in json.loads(out)["notes"][-1]
    status, out, _ = run(path, "What is wall 7 called?", "--encoding", "windows-1251", *kept)
    assert status == 0 and "ЙШЩ" in json.loads(out)["citations"][0]["text"] and json.loads(out)["notes"] == []
    status, out, err = run(path, "What is wall 7 called?", "--encoding", "utf-8", *kept)
    assert (status, out, err) == (2, "", "walls.txt is not written in UTF-8. Choose another encoding.\n")
    status, out, err = run(path, "What is wall 7 called?", "--encoding", "rot13")
    assert (status, out, err.count("\n")) == (2, "", 1) and "rot13" in err


def test_flags_may_stand_anywhere_and_text_names_file_and_page(run, folder):
    status, out, _ = run("--k", "1", folder / "study.txt", "--mode", "quote", QUESTION)
    assert status == 0
    assert "370 schools" in out.splitlines()[0] and "[1] study.txt, page 1" in out


def test_an_index_folder_is_used_again(run, folder, tmp_path):
    for _ in range(2):
        status, out, err = run(folder / "study.txt", QUESTION, "--data_dir", tmp_path / "data", "--json")
        assert (status, err) == (0, "") and "370" in json.loads(out)["answer"]
    run(folder / "bees.txt", "What do bees make?", "--data_dir", tmp_path / "data")
    status, out, _ = run(folder / "bees.txt", QUESTION, "--data_dir", tmp_path / "data", "--json")
    assert {c["file"] for c in json.loads(out)["citations"]} == {"bees.txt"}  # only the given files are searched


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "arguments are required"),
        (["study.txt"], "at least one file and then the question"),
        (["study.txt", "  "], "question is empty"),
        (["study.txt", QUESTION, "--k", "0"], "--k must be at least 1"),
        (["study.txt", QUESTION, "--k", "many"], "invalid int value"),
        (["study.txt", QUESTION, "--strategy", "fast"], "There is no strategy 'fast'"),
        (["study.txt", QUESTION, "--fast"], "Unrecognized arguments"),
        (["gone.txt", QUESTION], "gone.txt does not exist"),
        (["empty.txt", QUESTION], "empty.txt is empty"),
        (["broken.pdf", "gone.txt", QUESTION], "No file could be read"),
    ],
)
def test_bad_usage_is_status_2_and_one_sentence_on_stderr(run, folder, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    status, out, err = run(*arguments, "--json")
    assert (status, out) == (2, "")
    assert words in err and err.count("\n") == 1


def test_as_a_process(folder, checkpoint):
    """The real entry point, from another folder, with a variable for the model."""
    environment = {**os.environ, "GRIT_MODEL": str(checkpoint), "GRIT_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "grit_app.ask", "study.txt", QUESTION, "--json"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "370" in json.loads(done.stdout)["answer"]
