"""Running headers, footers and page numbers: lines at a page's edge that repeat from page to page."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

from grit_app.documents.read.pdf.lines import Line, PageLines, body_size

EDGE_LINES = 3  # a header or footer has at most so many lines
REACH = 6  # pages
LONGEST = 100  # characters of a header that no other page repeats
LARGE = 1.1  # of the body's size: headings, which may stand on the same spot of each chapter's first page
_NUMBER = re.compile(r"\d+|\b[ivxlcdm]+\b", re.IGNORECASE)
_PAGE_NUMBER = re.compile(
    r"[-–—\s|]*((page|seite|p\.|pág\.?|página|pagina|стр\.?|sivu|side|strona)\s*)?([A-Z]{1,2}[-–.])?(\d{1,4}|[ivxlcdm]{1,7})"
    r"(\s*(/|of|von|de|di|из|sur)\s*\d{1,4})?[-–—\s|]*",
    re.IGNORECASE,
)


def without_furniture(pages: Sequence[PageLines], labels: Sequence[str]) -> list[list[Line]]:
    """Each page's lines without those that belong to the page and not to the text.

    Rows are looked at from the top and the bottom edge inwards, until one is text. A line is furniture

    - if other pages within reach have it at the same height; a number in it may go on with the pages;
    - if it is nothing but the page's number;
    - if other pages have furniture of the same size at its place: names of sections change faster than they repeat.

    Two columns may cut a header in two, so the row as a whole is tried as well.
    """
    habits = _Habits(pages, labels)
    first = [habits.found(number, habits.repeats) for number in range(len(pages))]
    furnished = [[(line.y, line.size) for line in lines] for lines in first]

    def stands_there(line: Line, number: int, text: str) -> bool:
        others = {
            n
            for n in _near(number, len(furnished))
            for y, size in furnished[n]
            if abs(y - line.y) <= 1 and abs(size - line.size) <= 0.05 * size
        }
        habit = len(others) >= 3 and line.size <= habits.large and len(text) <= LONGEST
        return habit or habits.repeats(line, number, text)

    kept = []
    for number, page in enumerate(pages):
        drop = {id(line) for line in habits.found(number, stands_there)}
        kept.append([line for line in page.lines if id(line) not in drop])
    return kept


class _Habits:
    """What stands at the edges of all pages."""

    def __init__(self, pages: Sequence[PageLines], labels: Sequence[str]) -> None:
        self.labels = labels
        self.edges = [_edges(page) for page in pages]
        self.large = LARGE * body_size(page.lines for page in pages)
        # On two pages a repeated line may be a table's heading; three make a habit, unless there are no more.
        self.enough = min(2, max(1, (len(pages) - 1) // 2))
        # By page, so that a line is compared with those within reach alone.
        self.places: list[dict[str, list[tuple[float, str]]]] = [defaultdict(list) for _ in pages]
        self.numbered: list[list[float]] = [[] for _ in pages]
        for number, both in enumerate(self.edges):
            for row in {id(row[0]): row for rows, count, _ in both for row in rows[:count]}.values():
                for text in {*(line.text for line in row), _row_text(row)}:
                    self.places[number][_shape(text)].append((row[0].y, text))
                    if row[0].size <= self.large and _tells_its_page(text, number, labels[number]):
                        self.numbered[number].append(row[0].y)

    def repeats(self, line: Line, number: int, text: str) -> bool:
        """True if the line, taken as `text`, comes again on other pages or tells the page's number."""
        is_large = line.size > self.large
        tells = not is_large and _tells_its_page(text, number, self.labels[number])
        # Chapter names change, the page's number at their end goes on: each page at this height tells its own.
        near = _near(number, len(self.places))
        if tells and sum(any(_is_level(line, y) for y in self.numbered[n]) for n in near) >= 2:
            return True
        shape = _shape(text)
        repeated = {
            n
            for n in near
            for y, other in self.places[n].get(shape, ())
            if _is_level(line, y) and (other == text or (not is_large and _goes_on(text, other, n - number)))
        }
        return len(repeated) >= self.enough or _is_page_number(text, number, self.labels[number])

    def found(self, number: int, is_furniture: Callable[[Line, int, str], bool]) -> list[Line]:
        """The page's furniture."""
        lines: list[Line] = []
        for rows, count, leading in self.edges[number]:
            found: list[list[Line]] = []
            for row in rows[:count]:
                whole = _row_text(row)
                found.append([line for line in row if any(is_furniture(line, number, t) for t in (line.text, whole))])
                if len(found[-1]) < len(row):
                    break
            if found and not found[-1]:
                found.pop()
            while found and not _is_apart(rows, len(found), leading):
                found.pop()  # a form's own first or last lines may repeat, too, but they stand close to the rest
            lines += [line for row in found for line in row]
        return lines


def _near(number: int, count: int) -> list[int]:
    """The other pages within reach."""
    return [n for n in range(max(0, number - REACH), min(count, number + REACH + 1)) if n != number]


def _is_level(line: Line, y: float) -> bool:
    return abs(y - line.y) <= 1.5 * line.size


def _is_apart(rows: Sequence[Sequence[Line]], count: int, leading: float) -> bool:
    """True if the first `count` rows stand farther from the next one than the page's lines from each other."""
    return count >= len(rows) or abs(rows[count - 1][0].y - rows[count][0].y) > 1.35 * leading


def _shape(text: str) -> str:
    """The line without its numbers, so that left pages (`12  Title`) and right ones (`Title  13`) agree."""
    return " ".join(_NUMBER.sub(" ", text).casefold().split())


def _row_text(row: Sequence[Line]) -> str:
    return " ".join(line.text for line in sorted(row, key=lambda line: line.x0))


def _goes_on(text: str, other: str, pages: int) -> bool:
    """True if two lines of one shape, `pages` apart, differ by a page's number (12 → 13), not as `Step 2` and `Step 7`.

    Roman numbers, which the letters of a word may imitate, are believed.
    """
    differing = [(a, b) for a, b in zip(_NUMBER.findall(text), _NUMBER.findall(other), strict=False) if a != b]
    figures = [int(b) - int(a) for a, b in differing if a.isdecimal() and b.isdecimal()]
    return len(figures) < max(1, len(differing)) or pages in figures


def _tells_its_page(text: str, index: int, label: str) -> bool:
    words = text.split()
    return len(words) > 1 and any(word in (label, str(index + 1)) for word in (words[0], words[-1]))


def _is_page_number(text: str, index: int, label: str) -> bool:
    found = _PAGE_NUMBER.fullmatch(text)
    if found is None:
        return False
    # A lone number on the edge may also be a table's last figure: believe it if it says what it should.
    value = found.group(4)
    return (
        bool(found.group(1) or found.group(3) or found.group(5))
        or value in {label, str(index + 1)}
        or not value.isdigit()
    )


def _edges(page: PageLines) -> list[tuple[list[list[Line]], int, float]]:
    """(rows inwards, how many of them lie at the edge, distance of lines): top, bottom, each short sideways line."""
    upright: dict[int, list[Line]] = defaultdict(list)
    for line in page.lines:
        if line.turn == 0:
            upright[round(line.y)].append(line)
    heights = sorted(upright)
    leading = median(b - a for a, b in pairwise(heights)) if len(heights) > 1 else 0.0
    leading = min(leading, 1.5 * median(row[0].size for row in upright.values())) if upright else 0.0
    reach = 0.15 * max(page.top - page.bottom, 1.0) + 1
    upwards = [upright[y] for y in heights]
    near_top = min(EDGE_LINES, sum(page.top - y < reach for y in heights))
    near_bottom = min(EDGE_LINES, sum(y - page.bottom < reach for y in heights))
    sideways = [([[line]], 1, 0.0) for line in page.lines if line.turn != 0 and len(line.text) < 60]
    return [(upwards[::-1], near_top, leading), (upwards, near_bottom, leading), *sideways]
