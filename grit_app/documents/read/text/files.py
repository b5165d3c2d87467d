"""A text file of any kind as a `Document`: its encoding found, its kind told by its name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from grit_app.documents.document import Document, Limits
from grit_app.documents.read.text.encodings import decode, is_binary
from grit_app.documents.read.text.languages import encoding_name
from grit_app.documents.read.text.markdown import read_markdown
from grit_app.documents.read.text.plain import read_csv, read_text
from grit_app.errors import DocumentError, EncodingNeeded, NoTextFound

TEXT_SUFFIXES = {".txt", ".text", ".log", ".csv", ".tsv", ".rst", ""}
CSV_SUFFIXES = {".csv", ".tsv"}
MARKDOWN_SUFFIXES = {".md", ".markdown"}


def read_text_file(data: bytes, name: str, sha256: str, limits: Limits, encoding: str | None) -> Document:
    """The document of a text file's bytes. Runs in the worker.

    encoding   the one that a person chose; None: found from the bytes
    Raises DocumentError (EncodingNeeded, NoTextFound) with a sentence that names the file.
    """
    try:
        decoded = decode(data, encoding)
    except LookupError:
        raise EncodingNeeded(f"{name}: there is no encoding called {encoding!r}. Choose UTF-8 or another.") from None
    if decoded is None:
        raise _undecoded(name, data)
    if decoded.lost:
        raise EncodingNeeded(f"{name} is not written in {encoding_name(decoded.encoding)}. Choose another encoding.")
    if len(decoded.text) > limits.max_characters:
        raise DocumentError(f"{name} holds more than {limits.max_characters:,} characters, the limit. Split it.")
    document = _reader(Path(name).suffix.casefold())(decoded.text, name, sha256)
    if not any(c.isalnum() for c in document.text):
        raise NoTextFound(f"{name} holds no text.")
    notes = document.notes
    if decoded.by == "letters":
        called = encoding_name(decoded.encoding)
        notes += (f"{name} was read as {called}, a guess from its letters; another encoding can be chosen.",)
    return replace(document, encoding=decoded.encoding, encoding_by=decoded.by, notes=notes)


def _reader(suffix: str) -> Callable[[str, str, str], Document]:
    if suffix in MARKDOWN_SUFFIXES:
        return read_markdown
    return read_csv if suffix in CSV_SUFFIXES else read_text


def _undecoded(name: str, data: bytes) -> DocumentError:
    if is_binary(data):
        return DocumentError(f"{name} cannot be read: it holds binary data and no text. Save it as text in UTF-8.")
    return EncodingNeeded(f"{name} cannot be read: its encoding cannot be told. Choose it, or save the file as UTF-8.")
