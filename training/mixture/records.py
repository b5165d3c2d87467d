"""Read the corpus files: JSON Lines, plain or compressed with xz; and which of their records are held out."""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grit_app.errors import GritError

Record = dict[str, Any]


class CorpusError(GritError):
    """A corpus file or a setting of the corpus is missing or wrong."""


def read_records(path: Path) -> Iterator[Record]:
    """The objects of a .jsonl or .jsonl.xz file, in file order. Raises CorpusError naming the file and line."""
    if not path.is_file():
        raise CorpusError(f"{path} is not there. Set data_dir to the folder with the corpus files (training/DATA.md).")
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise CorpusError(f"{path}, line {number}: not a JSON object ({error.msg}).") from error


def is_held_out(record: Record, parts: int = 64) -> bool:
    """True for about one record in `parts`, decided by its title (or whole text) alone.

    Records of one article share the title, so an article is either trained on everywhere or nowhere.
    """
    key = record.get("title") or record.get("term") or json.dumps(record, sort_keys=True)
    return zlib.crc32(str(key).lower().encode()) % parts == 0


def answer_texts(record: Record) -> list[str]:
    """Reference answers of a question-answering record, whichever form the file uses."""
    return [answer["text"] if isinstance(answer, dict) else answer for answer in record["answers"]]
