"""How well the files of a folder are read: `python -m grit_app.documents.score DIR`.

Beside each file NAME stands NAME.expected.txt: its text as people read it, or `refused: WORDS` where a sentence that
holds the words is right. Prints for each file the score, 0 … 1, and the seconds; then the mean and the sum.
The score is the share of words that stand in the right order in both texts (2 · matches / words of both).
"""

import difflib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser

from grit_app.documents.read.reading import read_document
from grit_app.errors import DocumentError

EXPECTED = ".expected.txt"
REFUSED = "refused: "


@dataclass(frozen=True)
class Scored:
    """How one file was read."""

    name: str
    score: float
    seconds: float
    text: str
    """What was read, or the sentence of the refusal."""


def score_folder(folder: Path) -> list[Scored]:
    """Every file of the folder that has an expected text beside it, by name."""
    expected = sorted(folder.glob(f"*{EXPECTED}"))
    return [score_file(path.with_name(path.name.removesuffix(EXPECTED)), path) for path in expected]


def score_file(path: Path, expected: Path) -> Scored:
    """The file read and compared. Raises OSError if the expected text cannot be read."""
    wanted = expected.read_text(encoding="utf-8").strip("\n")
    started = time.perf_counter()
    try:
        text = read_document(path).text
    except DocumentError as error:
        seconds = time.perf_counter() - started
        is_right = wanted.startswith(REFUSED) and wanted.removeprefix(REFUSED) in str(error)
        return Scored(path.name, float(is_right), seconds, str(error))
    seconds = time.perf_counter() - started
    return Scored(path.name, 0.0 if wanted.startswith(REFUSED) else similarity(text, wanted), seconds, text)


def similarity(text: str, wanted: str) -> float:
    """1 if both are the same sign by sign; else the share of equal words in order, below 1."""
    if text == wanted:
        return 1.0
    matcher = difflib.SequenceMatcher(None, text.split(), wanted.split(), autojunk=False)
    return min(0.99, matcher.ratio())


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 2 if the folder holds nothing to score."""
    parser = ArgumentParser(prog="python -m grit_app.documents.score", description=str(__doc__).split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder: Path = parser.parse_args(arguments).folder
    found = score_folder(folder)
    if not found:
        print(f"{folder} holds no file with an expected text (NAME{EXPECTED}) beside it.", file=sys.stderr)
        return 2
    for entry in found:
        print(f"{entry.score:5.2f}  {entry.seconds:6.2f} s  {entry.name}")
    print(
        f"{sum(e.score for e in found) / len(found):5.3f}  {sum(e.seconds for e in found):6.2f} s  {len(found)} files"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
