"""Running headers, footers and page numbers: lines at a page's edge that repeat from page to page."""

import re
from collections import defaultdict
from collections.abc import Sequence

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

    A line among the first or last few of its page is furniture if, numbers aside, it stands at the same height on other
    pages within reach (left and right pages may differ), or if it is nothing but a page number.
    """
    edges = [_edge_lines(page) for page in pages]
    places: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, lines in enumerate(edges):
        for line, _ in lines:
            places[_shape(line.text)].append((number, line.y))
    kept = []
    for number, page in enumerate(pages):
        drop = set()
        for line, outermost in edges[number]:
            repeated = [
                n for n, y in places[_shape(line.text)]
                if n != number and abs(n - number) <= 6 and abs(y - line.y) <= 1.5 * line.size
            ]  # fmt: skip
            # On two pages a repeated line may be a table's heading; three make a habit, unless there are no more.
            enough = len(repeated) >= min(2, max(1, (len(pages) - 1) // 2))
            if enough or (outermost and _is_page_number(line.text, number, labels[number])):
                drop.add(id(line))
        kept.append([line for line in page.lines if id(line) not in drop])
    return kept


def _shape(text: str) -> str:
    """The line without its numbers, so that left pages (`12  Title`) and right ones (`Title  13`) agree."""
    return " ".join(_NUMBER.sub(" ", text).casefold().split())


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


def _edge_lines(page: PageLines) -> list[tuple[Line, bool]]:
    """(line, is it the outermost of its edge) for the highest and lowest lines, and all short sideways ones."""
    upright = [line for line in page.lines if line.turn == 0]
    rows = sorted({round(line.y) for line in upright}, reverse=True)
    height = max(page.top - page.bottom, 1.0)
    found = []
    for line in upright:
        y = round(line.y)
        from_top, from_bottom = rows.index(y), len(rows) - 1 - rows.index(y)
        at_top = from_top < EDGE_LINES and page.top - line.y < 0.15 * height
        at_bottom = from_bottom < EDGE_LINES and line.y - page.bottom < 0.15 * height
        if at_top or at_bottom:
            found.append((line, min(from_top, from_bottom) == 0))
    found += [(line, True) for line in page.lines if line.turn != 0 and len(line.text) < 60]
    return found
