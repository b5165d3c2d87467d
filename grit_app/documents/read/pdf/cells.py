"""Table cells of several lines: what was wrapped inside a cell belongs to the row, next to the cell's first line.

A lone line under a row belongs to one of its cells if

- it begins where the cell begins and ends before the next cell,
- it is as near as the lines of a paragraph, and
- the cell's text ends in the middle of a sentence.

Above a row the same holds where labels stand in the middle of their row. Two lines half a line above and below a row
are one cell of it. The first column is left alone: a lone line there is a label or a paragraph.
"""

import re
from collections.abc import Sequence

from grit_app.documents.read.clean import is_right_to_left
from grit_app.documents.read.hyphens import HyphenMender
from grit_app.documents.read.pdf.segments import Segment

_ENDS = re.compile(r"[.!?:;]$")
_MENDER = HyphenMender(())


def with_wrapped_cells(rows: Sequence[list[Segment]]) -> list[list[Segment]]:
    """Rows from top to bottom, each from left to right; wrapped lines joined to their cells in place."""
    joined: list[list[Segment]] = []
    last_y, began = 0.0, -1  # where the last row's text ends, and which of its cells runs on already
    for row in rows:
        if len(joined) > 1 and len(row) == len(joined[-2]) == 1 and _stand_around(joined[-2][0], joined[-1], row[0]):
            [cell] = joined.pop(-2)
            _extend(cell, cell.text, row[0])
            joined[-1].insert(_place(joined[-1], cell), cell)
            continue
        column = _column(joined[-1], row[0], last_y - row[0].y) if joined and len(row) == 1 else -1
        if column > 0 and (_goes_on(row[0]) or (column == began and not _ENDS.search(joined[-1][column].text))):
            _extend(joined[-1][column], joined[-1][column].text, row[0])
            last_y, began = row[0].y, column
            continue
        top = row[0].y
        while joined and len(joined[-1]) == 1 and len(row) > 1:
            above = joined[-1][0]
            column = _column(row, above, above.y - top)
            if column < 1 or not _goes_on(row[column]):
                break
            top = above.y
            _extend(row[column], above.text, row[column])
            row[column].words = above.words + row[column].words
            row[column].x1 = max(row[column].x1, above.x1)
            joined.pop()
        joined.append(row)
        last_y, began = row[0].y, -1
    return joined


def _column(row: Sequence[Segment], line: Segment, distance: float) -> int:
    """The cell of `row` to whose text `line`, so many points above or below it, may belong; -1: none."""
    if len(row) < 2 or not 0 < distance <= 1.4 * line.size or is_right_to_left(line.text):
        return -1
    for number, cell in enumerate(row):
        if abs(cell.x0 - line.x0) < 0.3 * line.size and abs(cell.size - line.size) < 0.07 * line.size:
            is_clear = number + 1 == len(row) or line.x1 < row[number + 1].x0
            return number if is_clear else -1
    return -1


def _stand_around(above: Segment, row: Sequence[Segment], below: Segment) -> bool:
    """True if two lines are a cell whose row's other cells stand at half their height."""
    up, down, place = above.y - row[0].y, row[0].y - below.y, _place(row, above)
    return (
        len(row) > 1
        and 0 < up <= 0.8 * above.size
        and abs(up - down) < 0.2 * above.size
        and abs(above.x0 - below.x0) < 0.3 * above.size
        and _goes_on(below)
        and place > 0
        and row[place - 1].x1 < above.x0
        and (place == len(row) or max(above.x1, below.x1) < row[place].x0)
    )


def _place(row: Sequence[Segment], cell: Segment) -> int:
    return sum(other.x0 < cell.x0 for other in row)


def _goes_on(line: Segment) -> bool:
    return next((c for c in line.text if c.isalnum()), "").islower()


def _extend(cell: Segment, first: str, second: Segment) -> None:
    cell.text = _MENDER.continued(first, second.text)
    cell.x1 = max(cell.x1, second.x1)
    if second is not cell:
        cell.words = cell.words + second.words
