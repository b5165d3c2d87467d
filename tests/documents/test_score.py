"""The corpus of regressions, read as any upload is, and the command that scores it."""

from __future__ import annotations

from pathlib import Path

import pytest

from grit_app.documents.score import main, score_file, similarity
from tests.documents.corpus.make import FILES, make


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_the_corpus_is_read_sign_by_sign(tmp_path: Path, name: str) -> None:
    data, text = FILES[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "expected").write_text(text, encoding="utf-8")
    scored = score_file(tmp_path / name, tmp_path / "expected")
    assert scored.score == 1.0, scored.text


def test_the_command_prints_score_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.documents.corpus.make.FILES", {n: FILES[n] for n in ("pipes.md", "binary.txt")})
    make(tmp_path)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1.000")
    assert main([str(tmp_path / "nothing")]) == 2


def test_the_score_tells_right_from_nearly_right() -> None:
    assert similarity("a b c", "a b c") == 1.0
    assert similarity("a b", "a b c") == pytest.approx(0.8)
    assert similarity("a  b c", "a b c") == 0.99
