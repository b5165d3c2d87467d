"""A text file of any kind as a `Document`: its encoding found, its kind told by its name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from grit_app.documents.document import Document, Limits
from grit_app.documents.read.text.encodings import decode, encoding_name, is_binary
from grit_app.documents.read.text.markdown import read_markdown
from grit_app.documents.read.text.plain import read_csv, read_text
from grit_app.errors import DocumentError, NoTextFound

TEXT_SUFFIXES = {".txt", ".text", ".log", ".csv", ".tsv", ".rst", ""}
CSV_SUFFIXES = {".csv", ".tsv"}
MARKDOWN_SUFFIXES = {".md", ".markdown"}


def read_text_file(data: bytes, name: str, sha256: str, limits: Limits, encoding: str | None) -> Document:
    """The document of a text file's bytes. Runs in the worker.

    encoding   the one that a person chose; None: found from the bytes
    Raises DocumentError or NoTextFound with a sentence that names the file.
    """
    try:
        decoded = decode(data, encoding)
    except LookupError:
        raise DocumentError(f"{name}: there is no encoding called {encoding!r}. Choose UTF-8 or another.") from None
    if decoded is None:
        raise DocumentError(_undecoded(name, data))
    if len(decoded.text) > limits.max_characters:
        raise DocumentError(f"{name} holds more than {limits.max_characters:,} characters, the limit. Split it.")
    document = _reader(Path(name).suffix.casefold())(decoded.text, name, sha256)
    if not any(c.isalnum() for c in document.text):
        raise NoTextFound(f"{name} holds no text.")
    notes = document.notes
    if decoded.is_guess:
        notes += (f"{name} was read as {encoding_name(decoded.encoding)}, a guess from its letters.",)
    return replace(document, encoding=decoded.encoding, notes=notes)


def _reader(suffix: str) -> Callable[[str, str, str], Document]:
    if suffix in MARKDOWN_SUFFIXES:
        return read_markdown
    return read_csv if suffix in CSV_SUFFIXES else read_text


def _undecoded(name: str, data: bytes) -> str:
    if is_binary(data):
        return f"{name} cannot be read: it holds binary data and no text. Save it as text in UTF-8."
    return f"{name} cannot be read: its encoding cannot be told. Save it as UTF-8 and try again."
