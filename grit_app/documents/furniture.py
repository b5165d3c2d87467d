"""Running headers, footers and page numbers: lines at a page's edge that repeat from page to page."""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from grit_app.documents.page_layout import Line, PageLines

EDGE_LINES = 3  # a header or footer has at most so many lines
_NUMBER = re.compile(r"\d+|\b[ivxlcdm]+\b", re.IGNORECASE)
_PAGE_NUMBER = re.compile(
    r"[-–—\s|]*((page|seite|p\.|pág\.?|página|pagina|стр\.?|sivu|side|strona)\s*)?([A-Z]{1,2}[-–.])?(\d{1,4}|[ivxlcdm]{1,7})"
    r"(\s*(/|of|von|de|di|из|sur)\s*\d{1,4})?[-–—\s|]*",
    re.IGNORECASE,
)


def without_furniture(pages: Sequence[PageLines], labels: Sequence[str]) -> list[list[Line]]:
    """Each page's lines without those that belong to the page and not to the text.

    From the edge inwards, as long as rows are furniture: a line is if, numbers aside, it stands at the same height on
    other pages within reach (left and right pages may differ), or if it is nothing but the page's number.
    """
    edges = [_edges(page) for page in pages]
    places: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, both in enumerate(edges):
        for line in {id(line): line for rows, near, _ in both for row in rows[:near] for line in row}.values():
            places[_shape(line.text)].append((number, line.y))

    numbered = [
        (number, line.y)
        for number, both in enumerate(edges)
        for rows, near, _ in both
        for row in rows[:near]
        for line in row
        if _tells_its_page(line.text, number, labels[number])
    ]

    def is_furniture(line: Line, number: int) -> bool:
        if _tells_its_page(line.text, number, labels[number]):
            # Chapter names change, the page's number at their end goes on: each page at this height tells its own.
            others = {n for n, y in numbered if 0 < abs(n - number) <= 6 and abs(y - line.y) <= 1.5 * line.size}
            if len(others) >= 2:
                return True
        repeated = {
            n
            for n, y in places[_shape(line.text)]
            if n != number and abs(n - number) <= 6 and abs(y - line.y) <= 1.5 * line.size
        }
        # On two pages a repeated line may be a table's heading; three make a habit, unless there are no more.
        return len(repeated) >= min(2, max(1, (len(pages) - 1) // 2)) or _is_page_number(
            line.text, number, labels[number]
        )

    kept = []
    for number, page in enumerate(pages):
        drop: set[int] = set()
        for rows, near, leading in edges[number]:
            found = []
            for row in rows[:near]:
                found.append({id(line) for line in row if is_furniture(line, number)})
                if len(found[-1]) < len(row):
                    break
            if found and not found[-1]:
                found.pop()
            while found and not _is_apart(rows, len(found), leading):
                found.pop()  # a form's own first or last lines may repeat, too, but they stand close to the rest
            drop |= set().union(*found)
        kept.append([line for line in page.lines if id(line) not in drop])
    return kept


def _is_apart(rows: Sequence[Sequence[Line]], count: int, leading: float) -> bool:
    """True if the first `count` rows stand farther from the next one than the page's lines from each other."""
    return count >= len(rows) or abs(rows[count - 1][0].y - rows[count][0].y) > 1.35 * leading


def _shape(text: str) -> str:
    """The line without its numbers, so that left pages (`12  Title`) and right ones (`Title  13`) agree."""
    return " ".join(_NUMBER.sub(" ", text).casefold().split())


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
