"""Files of office programs, web pages, books and mails, told apart by their names. Runs in the worker."""

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from grit_app.documents.document import Document, Limits
from grit_app.documents.read.office.book import read_book
from grit_app.documents.read.office.html import html_text, read_html
from grit_app.documents.read.office.mail import read_mail
from grit_app.documents.read.office.sheets import read_sheets
from grit_app.documents.read.office.slides import read_slides
from grit_app.documents.read.office.word import read_word
from grit_app.documents.read.text.plain import TextLine, of_pages
from grit_app.errors import DocumentError, NoTextFound

Pages = Sequence[tuple[str, list[TextLine]]]
"""(label, lines) of each page, slide, sheet or chapter."""

MOST_UNPACKED: Final = 400_000_000
"""Bytes. An honest file of the largest size allowed has a fraction of it."""


def _page(data: bytes) -> Pages:
    return [("1", read_html(html_text(data)))]


_READERS: Final[dict[str, Callable[[bytes], Pages]]] = {
    ".docx": read_word,
    ".pptx": read_slides,
    ".xlsx": read_sheets,
    ".epub": read_book,
    ".html": _page,
    ".htm": _page,
    ".eml": read_mail,
}
_ZIPPED: Final = frozenset({".docx", ".pptx", ".xlsx", ".epub"})


def read_office_file(data: bytes, name: str, sha256: str, limits: Limits) -> Document:
    """The document of a file's bytes. Raises DocumentError or NoTextFound with a sentence that names the file."""
    suffix = Path(name).suffix.casefold()
    if suffix in _ZIPPED:
        _check_zip(data, name)
    try:
        pages = _READERS[suffix](data)
    except Exception as error:  # the libraries meet arbitrary bytes and raise whatever
        raise DocumentError(f"{name} is damaged and cannot be read. Save it anew and try again.") from error
    characters = sum(len(line.text) for _, lines in pages for line in lines)
    if characters > limits.max_characters:
        raise DocumentError(f"{name} holds more than {limits.max_characters:,} characters, the limit. Split it.")
    kept = [(label, [line for line in lines if line.text.strip() or line.kind == "code"]) for label, lines in pages]
    document = of_pages(kept, name, sha256, suffix[1:].replace("htm", "html").replace("htmll", "html"))
    if not any(c.isalnum() for c in document.text):
        raise NoTextFound(f"{name} holds no text.")
    return document


def _check_zip(data: bytes, name: str) -> None:
    """Refuses what unpacks to more than any honest file, and XML that defines entities, which can grow without end."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if any(entry.flag_bits & 1 for entry in entries):
                raise DocumentError(f"{name} is encrypted. Save it without a password and try again.")
            if sum(entry.file_size for entry in entries) > MOST_UNPACKED or len(entries) > 20_000:
                raise DocumentError(f"{name} unpacks to more than {MOST_UNPACKED / 1e6:.0f} MB. Split it.")
            for entry in entries:
                if entry.filename.endswith((".xml", ".rels", ".opf", ".xhtml", ".html", ".ncx")):
                    with archive.open(entry) as part:
                        if b"<!ENTITY" in part.read(100_000):
                            raise DocumentError(f"{name} defines entities of its own, which is not safe to read.")
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError) as error:
        what = "is encrypted, or of an older kind" if data.startswith(b"\xd0\xcf\x11\xe0") else "is damaged"
        raise DocumentError(f"{name} {what} and cannot be read. Save it anew and try again.") from error
