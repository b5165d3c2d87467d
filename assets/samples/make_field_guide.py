"""Make `field_guide.pdf` from `field_guide.txt`: A4, a roman title page, decimal chapters, running header, two tables.

    python assets/samples/make_field_guide.py

Plain PDF 1.4 with the standard Helvetica fonts, so nothing is embedded; their glyph widths come from pypdf.
Markup of the source: `# ` chapter, `## ` section, `:: ` note under the title, `|` table row (the first is the head),
`===` new page.
The same source gives the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pypdf._codecs.core_font_metrics import CORE_FONT_METRICS

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT, LEFT, RIGHT, TOP = 595, 842, 68, 527, 776
RUNNING_HEAD = "A Field Guide to the Workbench"


class Style(NamedTuple):
    font: str
    size: float
    leading: float
    before: float


STYLES = {
    "title": Style("F2", 22, 28, 0),
    "section": Style("F2", 12.5, 17, 9),
    "body": Style("F1", 10.8, 14.9, 5),
    "note": Style("F3", 10, 14, 4),
    "head": Style("F2", 9.6, 15, 0),
    "cell": Style("F1", 9.6, 15, 0),
}
FACES = {"F1": "Helvetica", "F2": "Helvetica-Bold", "F3": "Helvetica-Oblique"}


def width(text: str, style: Style) -> float:
    """Width of the text in points."""
    widths = CORE_FONT_METRICS[FACES[style.font]].character_widths
    return sum(widths.get(letter, 556) for letter in text) * style.size / 1000


def wrapped(text: str, style: Style) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if width(longer, style) > RIGHT - LEFT:
            yield line
            longer = word
        line = longer
    yield line


class Page:
    """Collects the drawing operators of one page, from the top down."""

    def __init__(self) -> None:
        self.operators: list[str] = []
        self.y = float(TOP)

    def words(self, text: str, style: Style, x: float = LEFT, y: float | None = None) -> None:
        escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        at = self.y if y is None else y
        self.operators.append(f"BT /{style.font} {style.size} Tf {x:.1f} {at:.1f} Td ({escaped}) Tj ET")

    def rule(self, y: float, grey: float = 0.7) -> None:
        self.operators.append(f"{grey} G 0.6 w {LEFT} {y:.1f} m {RIGHT} {y:.1f} l S 0 G")

    def paragraph(self, text: str, style: Style) -> None:
        self.y -= style.before
        for line in wrapped(text, style):
            self.y -= style.leading
            self.words(line, style)

    def table(self, rows: list[list[str]]) -> None:
        columns = [LEFT, 178.0] if len(rows[0]) == 2 else [LEFT, 172.0, 296.0, 424.0]
        self.y -= 10
        for number, row in enumerate(rows):
            style = STYLES["head" if number == 0 else "cell"]
            self.y -= style.leading
            for x, cell in zip(columns, row, strict=True):
                self.words(cell, style, x)
            if number == 0:
                self.rule(self.y - 4)
        self.rule(self.y - 5)
        self.y -= 8


def drawn(block: str, label: str) -> Page:
    """One page of the source as operators."""
    page, rows = Page(), []
    for line in block.strip().splitlines():
        if line.startswith("|"):
            rows.append(line[1:].split("|"))
            continue
        if rows:
            page.table(rows)
            rows = []
        if line.startswith("## "):
            page.paragraph(line[3:], STYLES["section"])
        elif line.startswith("# "):
            page.paragraph(line[2:], STYLES["title"])
        elif line.startswith(":: "):
            page.paragraph(line[3:], STYLES["note"])
        else:
            page.paragraph(line, STYLES["body"])
    if rows:
        page.table(rows)
    assert page.y > 60, f"page {label} is too long: {page.y:.0f}"
    small = STYLES["note"]._replace(size=8.5)
    if label != "i":
        page.words(RUNNING_HEAD, small, y=HEIGHT - 44)
        page.rule(HEIGHT - 50, 0.85)
    page.words(label, small, x=(WIDTH - width(label, small)) / 2, y=36)
    return page


def pdf(pages: list[Page]) -> bytes:
    """The file: catalogue, page tree, fonts, then two objects a page."""
    first = 3 + len(FACES)
    kids = " ".join(f"{first + 2 * i} 0 R" for i in range(len(pages)))
    fonts = " ".join(f"/{name} {3 + i} 0 R" for i, name in enumerate(FACES))
    labels = "/PageLabels << /Nums [0 << /S /r >> 1 << /S /D >>] >>"
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {labels} >>".encode(),
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] /MediaBox [0 0 {WIDTH} {HEIGHT}] >>".encode(),
    ]
    objects += [
        f"<< /Type /Font /Subtype /Type1 /BaseFont /{face} /Encoding /WinAnsiEncoding >>".encode()
        for face in FACES.values()
    ]
    for i, page in enumerate(pages):
        stream = zlib.compress("\n".join(page.operators).encode("cp1252"), 9)
        resources = f"<< /Font << {fonts} >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /Contents {first + 2 * i + 1} 0 R /Resources {resources} >>".encode()
        )
        objects.append(b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(stream), stream))
    title = len(objects) + 1
    objects.append(f"<< /Title ({RUNNING_HEAD}) >>".encode())
    out, offsets = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        title,
        start,
    )
    return bytes(out)


def main() -> None:
    blocks = (HERE / "field_guide.txt").read_text(encoding="utf-8").split("\n===\n")
    labels = ["i", *(str(i) for i in range(1, len(blocks)))]
    pages = [drawn(block, label) for block, label in zip(blocks, labels, strict=True)]
    (HERE / "field_guide.pdf").write_bytes(pdf(pages))


if __name__ == "__main__":
    main()
