"""Draws a page as an image, with a passage boxed. Runs in the worker: see pictures.py.

The passage is stored text: hyphens mended, ligatures plain, columns in order. It is laid over the page's own characters
word by word (runs of equal words, case and signs aside); their boxes, joined line by line and then block by block, are
the marks. Where too few words are found the page is shown without a box.
"""

import ctypes
import difflib
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pypdfium2
import pypdfium2.raw as pdfium_c

from grit_app.errors import DocumentError

Box = tuple[int, int, int, int]

MAX_PIXELS = 6_000_000
MIN_RUN = 3  # words; shorter runs of equal words are chance, unless the passage itself is as short
MIN_SHARE = 0.2  # of the passage's words; it may run on from another page


@dataclass(slots=True)
class _Word:
    text: str
    characters: list[int]


def draw(
    pdf: Path | bytes,
    page_index: int,
    passage: str,
    password: str | None,
    scale: float,
    places: Sequence[Sequence[float]],
    marks: Sequence[Sequence[float]],
) -> tuple[bytes, tuple[int, int], list[Box], list[Box]]:
    """The page as PNG, its size in pixels, the boxes of the passage and of the marks. See `page_picture`."""
    try:
        with pypdfium2.PdfDocument(pdf if isinstance(pdf, bytes) else str(pdf), password=password) as document:
            if not 0 <= page_index < len(document):
                raise DocumentError(f"The document has no page {page_index + 1} to show.")
            page = document[page_index]
            width, height = page.get_size()
            fitting = min(scale, (MAX_PIXELS / max(1.0, width * height)) ** 0.5)
            image = page.render(scale=fitting).to_pil().convert("RGB")
            buffer = io.BytesIO()
            image.save(buffer, "PNG", compress_level=1)
            boxes = _joined_boxes(places, image.size) if places else _boxes(page, passage, image.size)
            return buffer.getvalue(), image.size, boxes, _joined_boxes(marks, image.size)
    except pypdfium2.PdfiumError as error:
        raise DocumentError(f"Page {page_index + 1} cannot be shown ({error}).") from error


def _joined_boxes(places: Sequence[Sequence[float]], size: tuple[int, int]) -> list[Box]:
    """The places of words, given as shares of the page, as boxes of lines and blocks in pixels."""
    width, height = size
    rects = [(a * width, b * height, c * width, d * height) for a, b, c, d in places]
    return [_grown(box, size) for box in _blocks(_lines(rects))]


def _boxes(page: pypdfium2.PdfPage, passage: str, size: tuple[int, int]) -> list[Box]:
    text_page = page.get_textpage()
    try:
        words = _page_words(text_page)
        found = _matching(words, _plain_words(passage))
        lines = _lines([_character_box(page, text_page, i, size) for word in found for i in word.characters])
        return [_grown(box, size) for box in _blocks(lines)]
    finally:
        text_page.close()


def _page_words(text_page: pypdfium2.PdfTextPage) -> list[_Word]:
    words: list[_Word] = []
    open_word = False
    for index in range(text_page.count_chars()):
        character = chr(pdfium_c.FPDFText_GetUnicode(text_page, index) or 32)
        plain = _plain(character)
        if not plain:
            open_word = False
        elif open_word:
            words[-1].text += plain
            words[-1].characters.append(index)
        else:
            words.append(_Word(plain, [index]))
            open_word = True
    return words


def _plain(text: str) -> str:
    """Letters and digits alone, compatibility forms resolved, accents off, in small letters."""
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in decomposed if c.isalnum())


def _plain_words(text: str) -> list[str]:
    pieces = "".join(c if c.isalnum() or unicodedata.combining(c) else " " for c in unicodedata.normalize("NFKD", text))
    return [word for piece in pieces.split() if (word := _plain(piece))]


def _matching(words: list[_Word], wanted: list[str]) -> list[_Word]:
    """The page's words that are the passage, by longest runs in order."""
    matcher = difflib.SequenceMatcher(None, [w.text for w in words], wanted, autojunk=False)
    least = min(MIN_RUN, len(wanted))
    runs = [block for block in matcher.get_matching_blocks() if block.size >= least]
    if sum(run.size for run in runs) < max(least, MIN_SHARE * len(wanted)) or not wanted:
        return []
    return [word for run in runs for word in words[run.a : run.a + run.size]]


def _character_box(
    page: pypdfium2.PdfPage, text_page: pypdfium2.PdfTextPage, index: int, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A character's box in pixels. PDFium does the turning and cropping, as it did when it drew the page."""
    left, bottom, right, top = text_page.get_charbox(index, loose=True)
    corners = []
    for x, y in ((left, bottom), (right, top)):
        pixel_x, pixel_y = ctypes.c_int(), ctypes.c_int()
        pdfium_c.FPDF_PageToDevice(page, 0, 0, *size, 0, x, y, pixel_x, pixel_y)
        corners.append((pixel_x.value, pixel_y.value))
    (x0, y0), (x1, y1) = corners
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


Rect = tuple[float, float, float, float]


def _joined(a: Rect, b: Rect) -> Rect:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _lines(boxes: list[Rect]) -> list[Rect]:
    """Characters in their order joined along a line, also over the words between that were not found."""
    lines: list[Rect] = []
    for box in boxes:
        if lines:
            last = lines[-1]
            height = max(last[3] - last[1], box[3] - box[1], 1.0)
            level = min(last[3], box[3]) - max(last[1], box[1]) > 0.4 * min(last[3] - last[1], box[3] - box[1])
            gap = max(box[0] - last[2], last[0] - box[2])  # the second where the text runs from right to left
            if level and gap < 20 * height:
                lines[-1] = _joined(last, box)
                continue
        lines.append(box)
    return lines


def _blocks(lines: list[Rect]) -> list[Rect]:
    """Lines that stand under one another joined."""
    blocks: list[Rect] = []
    for line in lines:
        height = line[3] - line[1]
        for place in range(len(blocks) - 1, max(-1, len(blocks) - 4), -1):  # cells far apart make several blocks
            last = blocks[place]
            across = min(last[2], line[2]) - max(last[0], line[0])
            if across > 0 and -height < line[1] - last[3] < 1.2 * height:
                blocks[place] = _joined(last, line)
                break
        else:
            blocks.append(line)
    return blocks


def _grown(rect: Rect, size: tuple[int, int]) -> Box:
    """A little air around, inside the image."""
    x0, y0, x1, y1 = (round(v) for v in rect)
    return max(0, x0 - 3), max(0, y0 - 3), min(size[0], x1 + 3), min(size[1], y1 + 3)
