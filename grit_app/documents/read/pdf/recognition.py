"""The words of a page that is a picture, by optical character recognition (OCR): rapidocr, with models of its own.

1. The page is drawn at 150 dots an inch. 200 find no more words on scans of 100 to 300 and take a third longer.
2. If its lines stand upright on their ends the page is turned; if what was found makes no sense it stands on its head.
   (rapidocr's own model for turned lines is off: it turned every third straight line of German or Swedish.)
3. The places of words are turned level, so that lines and columns are found as on any page.
"""

import importlib.util
import math
from statistics import median
from typing import Any

import numpy as np
import pypdfium2
from numpy.typing import NDArray

from grit_app.documents.places import Rect
from grit_app.documents.read.pdf.glyphs import PageWords, Word

DPI = 150
SHORT_SIDE, LONG_SIDE = 700, 2000
"""Pixels that a page is drawn with at least and at most; pages may name any size of paper."""
SENSE = 0.85
"""Mean certainty of a page's characters: 0.95 and more where the page stands upright, below 0.7 on its head."""
SIZE_SHARE = 0.72
"""Of the height of a line's box: the size of its letters."""
BASELINE = 0.25
"""Of the height of a line's box, from below: where the letters stand."""

Points = NDArray[np.float64]


def can_recognise() -> bool:
    """Whether OCR is installed (the extra `ocr`). Loads nothing."""
    return importlib.util.find_spec("rapidocr") is not None


class Recogniser:
    """Reads pictures of pages. Loads its models (32 MB) when it is made."""

    def __init__(self) -> None:
        from rapidocr import RapidOCR

        self._engine = RapidOCR(
            params={"Global.log_level": "critical", "Global.use_cls": False, "Global.return_word_box": True}
        )

    def read(self, page: pypdfium2.PdfPage) -> PageWords:
        """The words of a page, in points from the lower left corner of the page as it is shown and turned level."""
        width, height = page.get_size()
        scale = max(DPI / 72, SHORT_SIDE / max(1.0, min(width, height)))
        scale = min(scale, LONG_SIDE / max(1.0, width, height))
        image = np.asarray(page.render(scale=scale).to_pil().convert("RGB"))
        found = self._lines(image)
        if found and _sense(found) < SENSE:
            turned = [line.turned_around(image.shape) for line in self._lines(np.ascontiguousarray(image[::-1, ::-1]))]
            if turned and _sense(turned) > _sense(found):
                found = turned
        return PageWords(words=_words(found, image.shape, scale), picture_share=1.0)

    def _lines(self, image: NDArray[np.uint8]) -> list["_Line"]:
        result: Any = self._engine(image[:, :, ::-1])
        if not result.txts:
            return []
        words = result.word_results if len(result.word_results) == len(result.txts) else [()] * len(result.txts)
        return [
            _Line(str(text), float(score), np.asarray(corners, dtype=np.float64), list(found))
            for text, score, corners, found in zip(result.txts, result.scores, result.boxes, words, strict=True)
        ]


class _Line:
    """A line of text: its corners [4, 2] in pixels begin where the line begins, at the top."""

    def __init__(self, text: str, score: float, corners: Points, found: list[Any]) -> None:
        self.text, self.score = text, score
        wide, high = (float(np.linalg.norm(corners[i] - corners[i + 1])) for i in (0, 1))
        self.is_upright = high >= 1.5 * wide  # on its end, to be read downwards
        self.corners = np.roll(corners, -1, axis=0) if self.is_upright else corners
        self.words = _placed(text.split(), found, self.corners)

    def turned_around(self, shape: tuple[int, ...]) -> "_Line":
        """The line in the picture that is turned by half a turn."""
        far = np.array([shape[1], shape[0]], dtype=np.float64)
        self.corners = far - self.corners
        self.words = [(text, far - corners) for text, corners in self.words]
        return self

    @property
    def angle(self) -> float:
        """In radians, from the direction of rows of pixels, clockwise."""
        along = self.corners[1] - self.corners[0] + self.corners[2] - self.corners[3]
        return math.atan2(along[1], along[0])

    @property
    def height(self) -> float:
        return float(np.linalg.norm(self.corners[3] - self.corners[0]))


def _placed(tokens: list[str], found: list[Any], corners: Points) -> list[tuple[str, Points]]:
    """Each word of a line with its corners [4, 2]: as found, or else by its share of the line's letters."""
    placed, rest = [], list(found)
    for token in tokens:
        text, boxes = "", []
        while rest and len(text) < len(token):
            piece, _, box = rest.pop(0)
            text += piece
            boxes.append(np.asarray(box, dtype=np.float64))
        if text != token:
            break
        # Word boxes begin at the picture's own top left; along the line what counts is how far each reaches.
        places = [_shares(corners, box) for box in boxes]
        placed.append((token, _between(corners, min(a for a, _ in places), max(b for _, b in places))))
    if len(placed) == len(tokens):
        return placed
    length, at, placed = len(" ".join(tokens)), 0, []
    for token in tokens:
        placed.append((token, _between(corners, at / length, (at + len(token)) / length)))
        at += len(token) + 1
    return placed


def _shares(corners: Points, box: Points) -> tuple[float, float]:
    along = corners[1] - corners[0]
    shares = (box - corners[0]) @ along / max(1e-6, float(along @ along))
    return float(shares.min()), float(shares.max())


def _between(corners: Points, first: float, last: float) -> Points:
    top, bottom = corners[1] - corners[0], corners[2] - corners[3]
    return np.array(
        [corners[0] + first * top, corners[0] + last * top, corners[3] + last * bottom, corners[3] + first * bottom]
    )


def _sense(lines: list[_Line]) -> float:
    return sum(line.score * len(line.text) for line in lines) / sum(len(line.text) for line in lines)


def _words(lines: list[_Line], shape: tuple[int, ...], scale: float) -> list[Word]:
    if not lines:
        return []
    size = median(line.height for line in lines)
    longest = sorted(lines, key=lambda line: -len(line.text))[: max(5, len(lines) // 2)]
    first = longest[0].angle
    # Angles beside that of the longest line, so that those around a half turn have a middle.
    angle = first + median((line.angle - first + math.pi) % (2 * math.pi) - math.pi for line in longest)
    level = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    far = np.array([shape[1], shape[0]], dtype=np.float64)
    words = []
    for line in lines:
        turn = round((line.angle - angle) / (math.pi / 2)) % 4
        height = size if 0.8 < line.height / size < 1.25 else line.height
        frame = np.linalg.matrix_power(np.array([[0.0, 1.0], [-1.0, 0.0]]), turn) @ level
        # One baseline for all its words: the angles of lines differ by a fraction of a degree from the page's.
        baseline = shape[0] - float((line.corners[2:] @ frame.T)[:, 1].mean()) + BASELINE * height
        for text, corners in line.words:
            points = corners @ frame.T
            low, high = (corners / far).min(axis=0), (corners / far).max(axis=0)
            box: Rect = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
            words.append(
                Word(
                    text,
                    float(points[:, 0].min()) / scale,
                    float(points[:, 0].max()) / scale,
                    baseline / scale,
                    SIZE_SHARE * height / scale,
                    -turn % 4,
                    True,
                    None,
                    box,
                )
            )
    return words
