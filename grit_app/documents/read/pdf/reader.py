"""A PDF file read with PDFium into running text, page by page. Runs in the worker."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pypdfium2
import pypdfium2.raw as pdfium_c

from grit_app.documents.document import OCR_SECONDS, Document, Limits, Page, Stage, page_list
from grit_app.documents.read.clean import is_sign_soup, is_soup
from grit_app.documents.read.pdf.flow import flow
from grit_app.documents.read.pdf.furniture import without_furniture
from grit_app.documents.read.pdf.glyphs import PageWords, WordReader
from grit_app.documents.read.pdf.lines import Line, PageLines, page_lines
from grit_app.documents.read.pdf.mended import mended
from grit_app.documents.read.pdf.recognition import Recogniser, can_recognise
from grit_app.errors import DocumentError, NoTextFound, PasswordNeeded

PAGE_SECONDS = 0.2
"""Processor time for each page besides the limit of a file; an ordinary one takes 0.03."""
HOW_TO_RECOGNISE = "It is done here once rapidocr is installed (pip install rapidocr)."
_BLANK_NOTICE = re.compile(r"\W*(this )?page (is |was )?(intentionally |deliberately )?(left )?blank\W*", re.IGNORECASE)


def read_pdf(
    path: Path,
    name: str,
    sha256: str,
    *,
    password: str | None = None,
    limits: Limits,
    progress: Callable[[Stage, int, int], None] | None = None,
    plain_copy: Path | None = None,
    left_out: Sequence[int] = (),
) -> Document:
    """The document in the PDF file at `path`, called `name` in messages; where a limit is met, the pages before it.

    progress    called with (stage, pages done, all), for the first time when the file is open and no page is read
    plain_copy  where to write the file without its encryption, if it has one, so that its pages can be shown later
    left_out    indices of pages that are not to be read
    Raises PasswordNeeded, NoTextFound or DocumentError, each with one sentence that names the file.
    """
    started = time.process_time()
    with _open(path, name, password) as document:
        if plain_copy is not None and pdfium_c.FPDF_GetSecurityHandlerRevision(document) != -1:
            document.save(str(plain_copy), flags=pdfium_c.FPDF_REMOVE_SECURITY)
        count = len(document)
        if count == 1 and document.get_formtype() == pdfium_c.FORMTYPE_XFA_FULL:
            raise NoTextFound(
                f"{name} is an XFA form, whose pages Adobe's programs make while they show it. Print it to a PDF there."
            )
        deadline = started + limits.seconds + PAGE_SECONDS * count
        read = _Pages(document, limits, left_out)
        for done in read.all(deadline):
            if progress:
                progress("reading", done, read.stop)
        labels = [document.get_page_label(i).strip() or str(i + 1) for i in range(len(read.pages))]
        _recognise(document, read.pages, labels, limits, deadline, progress)
    if not read.pages:
        raise DocumentError(f"{name} cannot be read: {read.why}. Split it.")
    unread = list(range(len(read.pages), count))
    notes = [f"{page_list(unread).capitalize()} of {name}: not read, {read.why}. Split the file."] if unread else []
    return _compose(name, sha256, read, labels, notes)


class _Pages:
    """The pages of a document one after the other, until a limit is met.

    stop   pages that are to be read at most
    why    those behind them are not
    """

    def __init__(self, document: pypdfium2.PdfDocument, limits: Limits, left_out: Sequence[int]) -> None:
        self.pages: list[_Read] = []
        self.failed: list[int] = []
        self.left_out = [number for number in left_out if number < len(document)]
        self.stop = min(len(document), limits.max_pages)
        self.why = f"the limit is {limits.max_pages:,} pages"
        self._limits = limits
        self._reader = WordReader(document)

    def all(self, deadline: float) -> Iterator[int]:
        """Reads them; yields how many are read, from 0. `deadline`: in seconds of processor time."""
        characters = 0
        yield 0
        for number in range(self.stop):
            words = self._words(number)
            characters += sum(len(word.text) for word in words.words)
            if characters > self._limits.max_characters:
                self.why = f"the limit is {self._limits.max_characters:,} characters"
                return
            self.pages.append(_Read(words))
            yield number + 1
            if time.process_time() > deadline:
                self.why = "the time for reading was over"
                return

    def _words(self, number: int) -> PageWords:
        if number not in self.left_out:
            try:
                return self._reader.read(number)
            except pypdfium2.PdfiumError:
                self.failed.append(number)
        return PageWords()


def _recognise(
    document: pypdfium2.PdfDocument,
    pages: list["_Read"],
    labels: list[str],
    limits: Limits,
    deadline: float,
    progress: Callable[[Stage, int, int], None] | None,
) -> None:
    """Reads pages that are pictures, as many as the limits allow and until the time is over."""
    kept = without_furniture([page.lines for page in pages], labels)
    wanted = [i for i, page in enumerate(pages) if page.needs_eyes(kept[i])]
    for page in (pages[i] for i in wanted):
        page.source = "scan"
    wanted = wanted[: limits.ocr_pages]
    if not wanted or not can_recognise():
        return
    deadline += OCR_SECONDS * len(wanted)
    recogniser = Recogniser()
    for done, number in enumerate(wanted, 1):
        pages[number] = _Read(recogniser.read(document[number]), "ocr")
        if progress:
            progress("ocr", done, len(wanted))
        if time.process_time() > deadline:
            return


def _open(path: Path, name: str, password: str | None) -> pypdfium2.PdfDocument:
    """The open document, or its mended copy."""
    needs_password = False
    for key in (password, None) if password else (None,):
        try:
            document = pypdfium2.PdfDocument(str(path), password=key)
            copy = mended(path, password)
            if copy is not None:
                document.close()
                document = pypdfium2.PdfDocument(copy)
            if len(document) == 0:
                raise _damaged(name)
            return document
        except pypdfium2.PdfiumError as error:
            needs_password = needs_password or error.err_code == pdfium_c.FPDF_ERR_PASSWORD
            if error.err_code == pdfium_c.FPDF_ERR_SECURITY:
                raise DocumentError(f"{name} is encrypted in a way that cannot be opened here.") from error
    if not needs_password:
        raise _damaged(name)
    raise PasswordNeeded(
        f"{name} is encrypted and the password given does not open it. Check the password and try again."
        if password
        else f"{name} is encrypted. Give its password to read it."
    )


def _damaged(name: str) -> DocumentError:
    return DocumentError(f"{name} is damaged and cannot be read as a PDF. Save or download it anew and try again.")


class _Read:
    """What one page gave."""

    def __init__(self, words: PageWords, source: Literal["text", "ocr"] = "text") -> None:
        self.source: Literal["text", "ocr", "scan"] = source
        glyphs = sum(len(w.text) for w in words.words)
        # A font that does not say which characters it draws gives noise, which is worse than no text.
        self.unreadable = words.unreadable > 0.3 * max(1, glyphs)
        self.lines = PageLines() if self.unreadable else page_lines(words.words)
        self.lines.lines = [line for line in self.lines.lines if not _is_no_text(line.text)]
        self.holds_picture = words.picture_share > 0.1
        self.hides_text = words.hidden > 0

    def needs_eyes(self, kept: Sequence[Line]) -> bool:
        """True if what the page says can only be seen: a picture, letters that hide, or a layer that is no words.

        kept   its lines without what a scanner or an archive stamps on every page
        """
        return self.unreadable or (self.holds_picture and not _letters(kept)) or is_soup([line.text for line in kept])


def _is_no_text(line: str) -> bool:
    return _BLANK_NOTICE.fullmatch(line) is not None or is_sign_soup(line)


def _letters(lines: Sequence[Line]) -> bool:
    """True if there is more than specks: near-empty pages give no passages."""
    return sum(c.isalnum() for line in lines for c in line.text) >= 3


def _compose(name: str, sha256: str, read: _Pages, labels: list[str], notes: list[str]) -> Document:
    pages, failed = read.pages, read.failed
    if len(failed) + len(read.left_out) >= len(pages):
        raise _damaged(name)
    # What a scanner or an archive stamps on every page is no text: a page of nothing else is a picture.
    kept = without_furniture([page.lines for page in pages], labels)
    unread = [i for i, page in enumerate(pages) if page.source == "scan"]
    pictures = [i for i in unread if not pages[i].unreadable]
    unreadable = [i for i in unread if pages[i].unreadable]
    running = flow(kept)
    if not any(map(_letters, kept)) or not running.text.strip():
        raise _no_text(name, pictures, unreadable)
    if read.left_out:
        notes.append(f"{page_list(sorted(read.left_out)).capitalize()} of {name}: reading broke down; not searched.")
    if pictures:
        left = "" if can_recognise() else f" {HOW_TO_RECOGNISE}"
        notes.append(
            f"{page_list(pictures).capitalize()} of {name}: scanned, a picture without text; not searched.{left}"
        )
    if unreadable:
        notes.append(
            f"{page_list(unreadable).capitalize()} of {name}: the fonts hide which letters they draw; not searched."
        )
    recognised = [i for i, page in enumerate(pages) if page.source == "ocr"]
    if recognised:
        notes.append(f"{page_list(recognised).capitalize()} of {name}: read by OCR, which may err.")
    hiding = [i for i, page in enumerate(pages) if page.hides_text]
    if hiding:
        notes.append(f"{page_list(hiding).capitalize()} of {name}: hidden text was left out.")
    if failed:
        notes.append(f"{page_list(failed).capitalize()} of {name}: damaged; not searched.")
    spans = tuple(Page(i, labels[i], start, stop, pages[i].source) for i, (start, stop) in enumerate(running.spans))
    return Document(
        name,
        sha256,
        "pdf",
        spans,
        running.text,
        tuple(notes),
        tuple(running.headings),
        tables=tuple(running.tables),
        words=bytes(running.places),
    )


def _no_text(name: str, pictures: list[int], unreadable: list[int]) -> NoTextFound:
    if pictures:
        what = f"{page_list(pictures)} {'is a picture' if len(pictures) == 1 else 'are pictures'} (scanned)"
        how = "" if can_recognise() else f" {HOW_TO_RECOGNISE}"
        return NoTextFound(
            f"{name} holds no text: {what}. Run text recognition (OCR) on it first.{how}", len(pictures + unreadable)
        )
    if unreadable:
        return NoTextFound(
            f"{name} gives no readable text: its fonts hide which letters they draw ({page_list(unreadable)}).",
            len(unreadable),
        )
    return NoTextFound(f"{name} holds no text: its pages are empty.")
