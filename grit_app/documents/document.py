"""What reading a file gives, and the limits under which it is read."""

from dataclasses import dataclass, field
from typing import Any, Literal

from grit_app.errors import SettingsError

Stage = Literal["reading", "ocr", "embedding"]
"""Of adding a file: pages read, scanned pages read by OCR, chunks embedded."""

EncodingBy = Literal["bytes", "letters", "person"]
"""What says how a text file is encoded: its bytes, which prove it; its letters, a guess; or a person who chose it."""

ID_LENGTH = 16
"""Hexadecimal digits of a file's SHA-256 that name its document."""

MOST_OCR_PAGES = 200
"""Of one file, also where a person asks for all."""
OCR_SECONDS = 40.0
"""Processor time that one page may take at most; an ordinary one takes 4 to 8."""


@dataclass(frozen=True)
class Limits:
    """How large a file may be. Shown to people before they upload."""

    max_bytes: int = 50_000_000
    max_pages: int = 10_000
    max_characters: int = 10_000_000
    max_documents: int = 1_000
    """In one library."""
    seconds: float = 180.0
    """Processor time for reading one file or, of a PDF, from page to page; a page that never ends must not hold up the
    app. Not wall-clock time: with every core busy training, an honest manual of 91 pages was given up at page 50."""
    ocr_pages: int = 0
    """Scanned pages of a file that are read by OCR, where that is installed; each has `OCR_SECONDS` besides."""

    def __post_init__(self) -> None:
        if (
            self.ocr_pages < 0
            or min(self.max_bytes, self.max_pages, self.max_characters, self.max_documents, self.seconds) <= 0
        ):
            raise SettingsError("Every limit on documents must be above zero.")

    def describe(self) -> str:
        """The limits as one line for the upload box."""
        return f"up to {self.max_bytes / 1e6:.0f} MB and {self.max_pages:,} pages a file"


@dataclass(frozen=True)
class Page:
    """One page: a character span of `Document.text`."""

    index: int
    """From 0."""
    label: str
    """The page's own label (`iv`, `A-5`); its number from 1 where the file gives none."""
    start: int
    stop: int
    source: Literal["text", "ocr", "scan"] = "text"
    """Where its text comes from: the file, or OCR; `scan`: it is a picture whose text nobody has read."""


@dataclass(frozen=True)
class Section:
    """A stretch of a document's text that stands under the same headings, or in the same table."""

    start: int
    stop: int
    title: str
    """Headings from the outermost in, `Chapter 3 › Traps`; for rows of a table its caption and column heads."""


@dataclass(frozen=True)
class Row:
    """A row of a table with the lines that go on below it: `Document.text[start:stop]`."""

    start: int
    stop: int
    cells: tuple[tuple[int, int, int], ...]
    """(column, start, stop) in the document's text."""


@dataclass(frozen=True)
class Table:
    """A table whose rows are lines of the text."""

    caption: str
    heads: tuple[str, ...]
    """What stands over each column; empty where nothing does."""
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Table":
        """From what `dataclasses.asdict` gave, through JSON."""
        rows = (Row(r["start"], r["stop"], tuple(tuple(cell) for cell in r["cells"])) for r in fields["rows"])
        return cls(fields["caption"], tuple(fields["heads"]), tuple(rows))

    @property
    def title(self) -> str:
        """Caption and column heads in one line: what each row stands under."""
        return " › ".join(filter(None, [self.caption, " | ".join(filter(None, self.heads))]))


@dataclass(frozen=True)
class Document:
    """A file's text as people read it: one paragraph, heading or table row a line."""

    name: str
    sha256: str
    kind: str
    """pdf, text, markdown …: see `read.reading.KINDS`."""
    pages: tuple[Page, ...]
    text: str
    notes: tuple[str, ...] = ()
    """What a person should know about the reading, e.g. which pages are pictures without text."""
    headings: tuple[tuple[int, str], ...] = field(default=())
    """(where it starts in the text, heading or caption)."""
    sections: tuple[Section, ...] = ()
    """In order of their start; stretches under no heading are left out."""
    tables: tuple[Table, ...] = ()
    code: tuple[tuple[int, int], ...] = ()
    """(start, stop) of blocks of code in the text, which hold empty lines as well."""
    words: bytes = field(default=b"", repr=False)
    """Where each word stands on its page: see places.py. Empty where there are no pages to show."""
    encoding: str = ""
    """Of a text file, as Python names it."""
    encoding_by: EncodingBy = "bytes"

    @property
    def id(self) -> str:
        """The document's identity: the same bytes are the same document, whatever their name."""
        return self.sha256[:ID_LENGTH]

    @property
    def scanned(self) -> int:
        """Pages that are pictures whose text nobody has read."""
        return sum(page.source == "scan" for page in self.pages)

    def gains(self, ocr_pages: int, encoding: str | None = None) -> bool:
        """True if it would be read otherwise where OCR may read so many pages, or in this encoding."""
        if encoding is not None and self.encoding:
            return encoding != self.encoding
        return self.scanned > 0 and ocr_pages > sum(page.source == "ocr" for page in self.pages)


def page_list(indices: list[int]) -> str:
    """Pages in words: `page 3` or `pages 1–4, 7 and 9`; `indices` count from 0, sorted."""
    numbers = [i + 1 for i in indices]
    ranges: list[list[int]] = []
    for n in numbers:
        if ranges and n == ranges[-1][1] + 1:
            ranges[-1][1] = n
        else:
            ranges.append([n, n])
    shown = [f"{a}" if a == b else f"{a}–{b}" for a, b in ranges]
    if len(shown) > 12:
        shown = [*shown[:11], f"{len(shown) - 11} more places"]
    words = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"page {words}" if len(numbers) == 1 else f"pages {words}"
