"""A PDF file read with pypdf into running text, page by page. Runs in a process of its own: see `pdf_worker`."""

import io
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pypdfium2
from pypdf import PdfReader, PdfWriter
from pypdf.errors import DependencyError, PyPdfError

from grit_app.documents.document import Document, Limits, Page, page_list
from grit_app.documents.read.pdf.flow import flow
from grit_app.documents.read.pdf.furniture import without_furniture
from grit_app.documents.read.pdf.lines import Line, PageLines, page_lines
from grit_app.documents.read.pdf.words import OutOfTime, PageWords, WordReader
from grit_app.errors import DocumentError, NoTextFound, PasswordNeeded

_BLANK_NOTICE = re.compile(r"\W*(this )?page (is |was )?(intentionally |deliberately )?(left )?blank\W*", re.IGNORECASE)
# What pypdf raises on damaged files besides its own errors; its parser meets arbitrary bytes.
DAMAGE = (PyPdfError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, RecursionError,
          MemoryError, OverflowError, ZeroDivisionError, NotImplementedError, EOFError, OSError)  # fmt: skip


def read_pdf(
    path: Path,
    name: str,
    sha256: str,
    *,
    password: str | None = None,
    limits: Limits,
    progress: Callable[[int, int], None] | None = None,
    plain_copy: Path | None = None,
) -> Document:
    """The document in the PDF file at `path`, called `name` in messages.

    plain_copy  where to write the file without its encryption, if it has one, so that its pages can be shown later
    Raises PasswordNeeded, NoTextFound or DocumentError, each with one sentence that names the file.
    """
    # pypdf tells each oddity of a file on stderr; what people must know is in our notes.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    deadline = time.process_time() + limits.seconds
    reader = _open(path, name, password)
    count = _page_count(reader, name, limits)
    labels = _labels(reader, count)
    pages, failed, read_for = [], [], WordReader(deadline)
    characters = 0
    for number in range(count):
        try:
            words = read_for.read(reader.pages[number])
        except OutOfTime:
            raise DocumentError(
                f"{name} took longer than {limits.seconds:.0f} seconds to read and was given up at page {number + 1} "
                f"of {count}. Split it, or save it anew with another program."
            ) from None
        except DAMAGE:
            words = PageWords()
            failed.append(number)
        characters += sum(len(w.text) for w in words.words)
        if characters > limits.max_characters:
            raise DocumentError(f"{name} holds more than {limits.max_characters:,} characters, the limit. Split it.")
        pages.append(_Read(words))
        if progress:
            progress(number + 1, count)
    document = _compose(name, sha256, pages, labels, failed)
    if plain_copy is not None and reader.is_encrypted:
        PdfWriter(clone_from=reader).write(plain_copy)
    return document


def _open(path: Path, name: str, password: str | None) -> PdfReader:
    try:
        reader = PdfReader(path)
        opened = not reader.is_encrypted or any(reader.decrypt(key) for key in _keys(password))
        if opened and len(reader.pages) == 0:
            raise ValueError("no pages")
    except DependencyError as error:
        raise DocumentError(f"{name} is encrypted in a way that cannot be opened here ({error}).") from error
    except DAMAGE as error:
        repaired = _repaired(path, password)
        if repaired is None:
            raise _damaged(name) from error
        return repaired
    if not opened:
        raise PasswordNeeded(
            f"{name} is encrypted and the password given does not open it. Check the password and try again."
            if password
            else f"{name} is encrypted. Give its password to read it."
        )
    return reader


def _keys(password: str | None) -> Iterator[str | bytes]:
    """The password as the standard says it is spelled, as other programs spell it (ä in two bytes), and none."""
    if password:
        yield password
        yield password.encode()
    yield ""


def _repaired(path: Path, password: str | None) -> PdfReader | None:
    """The file as PDFium writes it anew, if that makes sense of it: it can do without the table of objects."""
    copy = io.BytesIO()
    try:
        with pypdfium2.PdfDocument(str(path), password=password) as document:
            document.save(copy)
        reader = PdfReader(copy)
        return reader if len(reader.pages) and not reader.is_encrypted else None
    except (pypdfium2.PdfiumError, *DAMAGE):
        return None


def _damaged(name: str) -> DocumentError:
    return DocumentError(f"{name} is damaged and cannot be read as a PDF. Save or download it anew and try again.")


def _page_count(reader: PdfReader, name: str, limits: Limits) -> int:
    count = len(reader.pages)
    if count > limits.max_pages:
        raise DocumentError(f"{name} has {count:,} pages; the limit is {limits.max_pages:,}. Split it.")
    return count


def _labels(reader: PdfReader, count: int) -> list[str]:
    try:
        labels = [str(label).strip() for label in reader.page_labels]
    except DAMAGE:
        labels = []
    return [labels[i] if i < len(labels) and labels[i] else str(i + 1) for i in range(count)]


class _Read:
    """What one page gave."""

    def __init__(self, words: PageWords) -> None:
        glyphs = sum(len(w.text) for w in words.words)
        # A font that does not say which characters it draws gives noise, which is worse than no text.
        self.unreadable = words.unreadable > 0.3 * max(1, glyphs)
        self.lines = PageLines() if self.unreadable else page_lines(words.words)
        self.lines.lines = [line for line in self.lines.lines if not _BLANK_NOTICE.fullmatch(line.text)]
        self.holds_picture = words.picture_share > 0.1


def _letters(lines: Sequence[Line]) -> bool:
    """True if there is more than specks: near-empty pages give no passages."""
    return sum(c.isalnum() for line in lines for c in line.text) >= 3


def _compose(name: str, sha256: str, pages: list[_Read], labels: list[str], failed: list[int]) -> Document:
    if len(failed) == len(pages):
        raise _damaged(name)
    # What a scanner or an archive stamps on every page is no text: a page of nothing else is a picture.
    kept = without_furniture([page.lines for page in pages], labels)
    pictures = [i for i, page in enumerate(pages) if page.holds_picture and not _letters(kept[i])]
    unreadable = [i for i, page in enumerate(pages) if page.unreadable]
    running = flow(kept)
    if not any(map(_letters, kept)) or not running.text.strip():
        raise _no_text(name, pictures, unreadable)
    notes = []
    if pictures:
        notes.append(f"{page_list(pictures).capitalize()} of {name}: scanned, a picture without text; not searched.")
    if unreadable:
        notes.append(
            f"{page_list(unreadable).capitalize()} of {name}: the fonts hide which letters they draw; not searched."
        )
    if failed:
        notes.append(f"{page_list(failed).capitalize()} of {name}: damaged; not searched.")
    spans = tuple(Page(i, labels[i], start, stop) for i, (start, stop) in enumerate(running.spans))
    return Document(name, sha256, "pdf", spans, running.text, tuple(notes), tuple(running.headings))


def _no_text(name: str, pictures: list[int], unreadable: list[int]) -> NoTextFound:
    if pictures:
        what = f"{page_list(pictures)} {'is a picture' if len(pictures) == 1 else 'are pictures'} (scanned)"
        return NoTextFound(f"{name} holds no text: {what}. Run text recognition (OCR) on it first.")
    if unreadable:
        return NoTextFound(
            f"{name} gives no readable text: its fonts hide which letters they draw ({page_list(unreadable)})."
        )
    return NoTextFound(f"{name} holds no text: its pages are empty.")
