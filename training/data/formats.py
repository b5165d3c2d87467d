"""Samples from files: what may stand in them, where a bad line is, and how a row becomes a sample.

A data file is JSON Lines (`.jsonl`, also `.jsonl.gz` and `.jsonl.xz`), one object a line; a folder of such files, each
of them a data set of its own; or the name of a data set on the Hugging Face hub (`GritLM/MEDI2`, `GritLM/tulu2`): each
of its JSON Lines files is a data set of its own, other forms are one. The keys of the first row decide the kind:

contrastive   {"query": Q, "pos": [P, …], "neg": [P, …]}       `neg` may be missing or empty
              Q and P are a string, or [instruction, text]. One positive and up to `negatives` negatives are drawn anew
              each time a row comes up.
generative    {"text": "…"}                                      plain text, every token is learnt
              {"text": [user, assistant, user, assistant, …]}    a chat, only what the assistant says is learnt
rag           {"question": "…", "passages": ["…", …], "gold": [0], "answer": "…", "answerable": true}
              passages     what the model may read: the ones that hold the answer, and hard negatives as distractors
              gold         indices (from 0) of the passages that give the answer; [] if none does
              answer       the text to write; ignored where `answerable` is false: then the refusal sentence
              answerable   optional, true if `gold` is not empty

Other keys are ignored, so that a file can keep its sources and scores. Rows are parsed when they are drawn; a bad one
raises DataError with its file and line. `python -m training.validate` reads every line beforehand.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TextIO

import numpy as np

from training.config import DataFile, TrainError

Kind = Literal["contrastive", "generative", "rag"]
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz")

HELD_OUT_NAME = re.compile(r"(^|[-_./])(test|dev|eval|val|valid|validation)([-_./]|$)", re.IGNORECASE)
"""Files of a hub repository that are not for training, by the hub's own rule for names."""

HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that can be half of a character."""

BLOCK_BYTES = 2**24

MEASURED_ROWS = 50_000
"""Rows of a hub data set of another form whose length is looked at by a dry run."""


class DataError(TrainError):
    """A data file is missing, or one of its lines cannot be used. Names the file and the line."""


class Text(NamedTuple):
    """A text to embed, with the instruction before it (never pooled); empty: none."""

    instruction: str
    text: str


@dataclass(frozen=True)
class ContrastiveSample:
    query: Text
    positives: list[Text]
    negatives: list[Text]


@dataclass(frozen=True)
class GenerativeSample:
    turns: list[str] | str
    """User, assistant, user, assistant, …; or plain text."""


@dataclass(frozen=True)
class RagSample:
    question: str
    passages: list[str]
    gold: list[int]
    answer: str
    answerable: bool


Sample = ContrastiveSample | GenerativeSample | RagSample


class Rows(Protocol):
    """Rows by number, parsed on access."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    def where(self, index: int) -> str:
        """`file.jsonl, line 812` of a row."""
        ...

    def sizes(self) -> np.ndarray:
        """About how long each row is, in characters."""
        ...


class JsonLines:
    """Rows of a JSON Lines file. Memory: line offsets of a plain file (mapped), the whole text of a packed one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._buffer = _read_buffer(path)
        self._starts, self._stops, self._lines = _line_spans(self._buffer)
        if not len(self._starts):
            raise DataError(f"{path} is empty. Remove it from the data, or fill it.")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        raw = self._buffer[int(self._starts[index]) : int(self._stops[index])]
        try:
            row = json.loads(bytes(raw).decode("utf-8-sig"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{self.where(index)}: not a JSON object ({error}). Correct or drop the line.") from error
        if not isinstance(row, dict):
            raise DataError(f"{self.where(index)}: a row must be a JSON object, not {type(row).__name__}.")
        return whole_characters(row) if HALF_CHARACTER.search(raw) else row

    def where(self, index: int) -> str:
        return f"{self.path.name}, line {int(self._lines[index])}"

    def sizes(self) -> np.ndarray:
        return self._stops - self._starts

    def content_hash(self) -> str:
        """Equal for equal content alone."""
        digest = hashlib.blake2b(digest_size=16)
        for start in range(0, len(self._buffer), BLOCK_BYTES):
            digest.update(self._buffer[start : start + BLOCK_BYTES])
        return digest.hexdigest()


class HubRows:
    """Rows of a Hugging Face data set's train split."""

    def __init__(self, name: str) -> None:
        import datasets

        self.name = name
        try:
            self._rows = datasets.load_dataset(name, split="train")
        except Exception as error:  # the library raises dozens of kinds, from several packages
            raise DataError(
                f"{name} is neither a file, a folder, nor a data set that can be had from the hub "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'})."
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self._rows[index])

    def where(self, index: int) -> str:
        return f"{self.name}, row {index}"

    @property
    def fingerprint(self) -> str:
        """Equal for equal content alone: the library's own, which is made from the files that it has read."""
        return f"{self.name}:{len(self)}:{self._rows._fingerprint}"

    def sizes(self) -> np.ndarray:
        found = np.zeros(len(self), dtype=np.int64)
        for index in range(0, len(self), -(-len(self) // MEASURED_ROWS)):
            found[index] = len(json.dumps(self[index], default=str))
        return found


@dataclass(frozen=True)
class Dataset:
    """One data set: its rows, and how the run uses it."""

    name: str
    kind: Kind
    rows: Rows
    file: DataFile
    fingerprint: str

    def __len__(self) -> int:
        return len(self.rows) if self.file.limit is None else min(len(self.rows), self.file.limit)

    def __getitem__(self, index: int) -> Sample:
        """The sample of one row. Raises DataError with file and line if the row is not of this data set's kind."""
        return parse(self.kind, self.rows[index], self.rows.where(index), self.file.instruction)

    def longest(self, count: int) -> list[int]:
        """The longest rows by their characters, longest first."""
        return [int(index) for index in np.argsort(-self.rows.sizes()[: len(self)], kind="stable")[:count]]


def open_datasets(files: Sequence[DataFile]) -> list[Dataset]:
    """Every data set that the files, folders and names stand for, in the order given; folders sorted by name."""
    datasets: list[Dataset] = []
    for file in files:
        path = Path(file.path)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES))
            if not inside:
                raise DataError(f"The folder {path} holds no {', '.join(SUFFIXES)} file.")
            datasets += [_open_file(p, file) for p in inside]
        elif path.is_file():
            datasets.append(_open_file(path, file))
        elif file.path.endswith(SUFFIXES) or not re.fullmatch(r"[\w.-]+/[\w.-]+", file.path) or path.is_absolute():
            raise DataError(f"{file.path} is not there. Correct data.train, or make the file.")
        elif lines := hub_files(file.path):
            datasets += [_open_file(p, file) for p in lines]
        else:
            rows = HubRows(file.path)
            datasets.append(Dataset(file.path, kind_of(rows[0], rows.where(0)), rows, file, rows.fingerprint))
    return datasets


def hub_files(name: str) -> list[Path]:
    """The JSON Lines files of a hub data set's training part, fetched or from the cache; [] if it has none.

    MEDI2 is hundreds of data sets, a file each: read as one, batches from the same data set would not exist.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=[f"*{end}" for end in SUFFIXES]))
    except OSError:  # no such repository, no network and no copy: all of huggingface_hub's errors are of this kind
        return []
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.name.endswith(SUFFIXES))
    return sorted(folder / path for path in files if not HELD_OUT_NAME.search(str(path)))


def kind_of(row: dict[str, Any], where: str) -> Kind:
    """The kind of a file by the keys of its first row."""
    if "query" in row:
        return "contrastive"
    if "text" in row:
        return "generative"
    if "question" in row and "passages" in row:
        return "rag"
    raise DataError(
        f"{where}: the kind of this file cannot be told from its keys {sorted(row)}. It needs `query` and `pos`, or "
        "`text`, or `question`, `passages`, `gold` and `answer`."
    )


def parse(kind: Kind, row: dict[str, Any], where: str, instruction: str = "") -> Sample:
    """A row as a sample. `instruction` is used for queries that bring none."""
    if kind == "contrastive":
        query = _text(row.get("query"), "query", where)
        if not query.instruction and instruction:
            query = Text(instruction, query.text)
        positives = _texts(row.get("pos"), "pos", where)
        if not positives:
            raise DataError(f'{where}: "pos" is empty. Every row needs at least one positive.')
        return ContrastiveSample(query, positives, _texts(row.get("neg") or [], "neg", where))
    if kind == "generative":
        return GenerativeSample(_turns(row.get("text"), where))
    return _rag_sample(row, where)


def open_text(path: Path) -> TextIO:
    """A file to write rows into, packed as its name says (.gz, .xz)."""
    if path.suffix == ".gz":
        return gzip.open(path, "wt", encoding="utf-8")
    if path.suffix == ".xz":
        return lzma.open(path, "wt", encoding="utf-8")
    return path.open("w", encoding="utf-8")


def whole_characters(value: Any) -> Any:
    """The value with a replacement sign for every half of a character: JSON can spell them, no tokenizer takes them."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {whole_characters(key): whole_characters(item) for key, item in value.items()}
    return value


def text_hash(text: str) -> int:
    """63 bits, equal for equal texts on every machine and in every process; white space at the ends is ignored."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest(), "big") >> 1


def _rag_sample(row: dict[str, Any], where: str) -> RagSample:
    passages, gold, answer = row.get("passages"), row.get("gold", []), row.get("answer", "")
    if not isinstance(row.get("question"), str) or not row["question"].strip():
        raise DataError(f'{where}: "question" must be a text.')
    if not isinstance(passages, list) or not passages or not all(isinstance(p, str) and p.strip() for p in passages):
        raise DataError(f'{where}: "passages" must be a list of texts, none of them empty.')
    if not isinstance(gold, list) or not all(isinstance(g, int) and 0 <= g < len(passages) for g in gold):
        raise DataError(
            f'{where}: "gold" must list indices of "passages", from 0 to {len(passages) - 1}, not {gold!r}.'
        )
    answerable = bool(row.get("answerable", bool(gold)))
    if answerable and not (isinstance(answer, str) and answer.strip()):
        raise DataError(
            f'{where}: "answer" is empty though the row is answerable. Fill it, or set "answerable": false.'
        )
    return RagSample(row["question"], passages, gold if answerable else [], str(answer), answerable)


def _text(value: Any, key: str, where: str) -> Text:
    if isinstance(value, str):
        return Text("", value)
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, str) for part in value):
        return Text(value[0], value[1])
    raise DataError(f'{where}: "{key}" must be a text or [instruction, text], not {value!r:.80}.')


def _texts(value: Any, key: str, where: str) -> list[Text]:
    if isinstance(value, str):
        return [Text("", value)]
    if not isinstance(value, list):
        raise DataError(f'{where}: "{key}" must be a list of texts or of [instruction, text], not {value!r:.80}.')
    return [_text(item, key, where) for item in value]


def _turns(value: Any, where: str) -> list[str] | str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(turn, str) for turn in value):
        raise DataError(f'{where}: "text" must be a text or a list of turns, not {value!r:.80}.')
    if len(value) < 2 or len(value) % 2:
        raise DataError(
            f'{where}: "text" has {len(value)} turns. User and assistant alternate and the assistant speaks last, '
            "so the number must be even."
        )
    return value


def _open_file(path: Path, file: DataFile) -> Dataset:
    rows = JsonLines(path)
    fingerprint = f"{path.name}:{len(rows)}:{rows.content_hash()}"
    return Dataset(path.name, kind_of(rows[0], rows.where(0)), rows, file, fingerprint)


def _read_buffer(path: Path) -> bytes | mmap.mmap:
    try:
        if path.suffix == ".xz":
            return lzma.decompress(path.read_bytes())
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes())
        if path.stat().st_size == 0:
            return b""
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}). Copy or make it again.") from error


def _line_spans(buffer: bytes | mmap.mmap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, stop and number (from 1) of every line that is not blank."""
    if not len(buffer):
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, empty
    characters = np.frombuffer(buffer, dtype=np.uint8)
    # Block by block: one comparison of the whole file would take as much memory as the file.
    newlines = np.concatenate(
        [
            start + np.flatnonzero(characters[start : start + BLOCK_BYTES] == ord("\n"))
            for start in range(0, len(buffer), BLOCK_BYTES)
        ]
    ).astype(np.int64)
    starts = np.concatenate([[0], newlines + 1])
    stops = np.concatenate([newlines, [len(buffer)]])
    keep = stops > starts
    # Only a line that begins with white space can be blank.
    doubtful = keep & (characters[np.minimum(starts, len(buffer) - 1)] <= ord(" "))
    for line in np.flatnonzero(doubtful):
        keep[line] = bool(bytes(buffer[int(starts[line]) : int(stops[line])]).strip())
    return starts[keep], stops[keep], np.flatnonzero(keep) + 1
