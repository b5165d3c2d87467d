"""Small PDF files written by hand, so that tests know every coordinate in them.

pdf = Pdf()
page = pdf.page()
page.text(72, 700, "Hello", size=12)
path.write_bytes(pdf.bytes())
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from pypdf import PdfReader, PdfWriter

# Widths of Helvetica, thousandths of an em, for characters 32 … 126 (Adobe Font Metrics).
HELVETICA = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556,
    556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278,
    500, 667, 556, 833, 722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469,
    556, 333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500,
    278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
]  # fmt: skip


def width(text: str, size: float) -> float:
    """How wide Helvetica draws the text, in points."""
    return sum(HELVETICA[ord(c) - 32] if 32 <= ord(c) <= 126 else 556 for c in text) * size / 1000


def literal(text: str) -> bytes:
    """A PDF string in Windows-1252."""
    data = text.encode("cp1252")
    return b"(" + data.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)") + b")"


@dataclass
class Canvas:
    """The drawing of one page."""

    width: float = 612
    height: float = 792
    rotate: int = 0
    operations: list[bytes] = field(default_factory=list)
    pictures: int = 0

    def text(self, x: float, y: float, text: str, size: float = 10, font: str = "F1", turn: int = 0) -> None:
        """Draws text from its baseline's left end; `turn` in quarter turns counter-clockwise."""
        a, b = [(1, 0), (0, 1), (-1, 0), (0, -1)][turn % 4]
        place = f"BT /{font} {size} Tf {a} {b} {-b} {a} {x:.2f} {y:.2f} Tm ".encode()
        self.operations.append(place + literal(text) + b" Tj ET")

    def codes(self, x: float, y: float, codes: list[int], size: float = 10) -> None:
        """Draws two-byte characters of the composite font F2."""
        data = b"".join(code.to_bytes(2, "big") for code in codes).hex().encode()
        self.operations.append(f"BT /F2 {size} Tf 1 0 0 1 {x} {y} Tm <".encode() + data + b"> Tj ET")

    def raw(self, operations: bytes) -> None:
        self.operations.append(operations)

    def lines(self, x: float, y: float, lines: list[str], size: float = 10, leading: float = 12) -> float:
        """Draws lines downwards and returns the baseline that would be next."""
        for line in lines:
            self.text(x, y, line, size)
            y -= leading
        return y

    def picture(self, x: float, y: float, w: float, h: float) -> None:
        """Draws a grey picture."""
        self.operations.append(f"q {w} 0 0 {h} {x} {y} cm /Im1 Do Q".encode())

    def row(self, y: float, cells: list[tuple[float, str]], size: float = 8) -> None:
        """Draws table cells, each from its own x."""
        for x, text in cells:
            self.text(x, y, text, size)


class Pdf:
    """A document: pages, page labels, one embedded-less Helvetica (F1) and a composite font (F2).

    characters   what the codes 1, 2, … of F2 stand for, each perhaps several characters; all are half an em wide
    """

    def __init__(self, characters: list[str] | None = None) -> None:
        self.pages: list[Canvas] = []
        self.labels = ""
        self.characters = characters or []

    def page(self, **options: float) -> Canvas:
        canvas = Canvas(**options)  # type: ignore[arg-type]
        self.pages.append(canvas)
        return canvas

    def bytes(self) -> bytes:
        objects: list[bytes] = []

        def add(data: bytes) -> int:
            objects.append(data)
            return len(objects)

        def stream(data: bytes, extra: str = "") -> int:
            return add(f"<< /Length {len(data)} {extra} >>\nstream\n".encode() + data + b"\nendstream")

        catalog, tree = add(b""), add(b"")
        plain = add(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
        composite = self._composite(add, stream)
        grey = stream(
            b"\x80", "/Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8"
        )
        kids = []
        for canvas in self.pages:
            contents = stream(b"\n".join(canvas.operations))
            kids.append(add(
                f"<< /Type /Page /Parent {tree} 0 R /MediaBox [0 0 {canvas.width} {canvas.height}] "
                f"/Rotate {canvas.rotate} "
                f"/Resources << /Font << /F1 {plain} 0 R /F2 {composite} 0 R >> /XObject << /Im1 {grey} 0 R >> >> "
                f"/Contents {contents} 0 R >>".encode()
            ))  # fmt: skip
        labels = f"/PageLabels << /Nums [{self.labels}] >>" if self.labels else ""
        objects[catalog - 1] = f"<< /Type /Catalog /Pages {tree} 0 R {labels} >>".encode()
        references = " ".join(f"{kid} 0 R" for kid in kids)
        objects[tree - 1] = f"<< /Type /Pages /Kids [{references}] /Count {len(kids)} >>".encode()
        return file_of(objects, catalog)

    def _composite(self, add, stream) -> int:  # type: ignore[no-untyped-def]
        mapping = "\n".join(
            f"<{code:04x}> <{text.encode('utf-16-be').hex()}>" for code, text in enumerate(self.characters, 1)
        )
        cmap = (
            "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def\n"
            "1 begincodespacerange <0000> <ffff> endcodespacerange\n"
            f"{len(self.characters)} beginbfchar\n{mapping}\nendbfchar endcmap end end"
        )
        unicode = stream(cmap.encode())
        descriptor = add(
            b"<< /Type /FontDescriptor /FontName /Made /Flags 4 /ItalicAngle 0 /Ascent 800 /Descent -200 >>"
        )
        child = add(
            b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Made /DW 500 /CIDSystemInfo "
            b"<< /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> /FontDescriptor %d 0 R >>" % descriptor
        )
        return int(add(
            b"<< /Type /Font /Subtype /Type0 /BaseFont /Made /Encoding /Identity-H /DescendantFonts [%d 0 R] "
            b"/ToUnicode %d 0 R >>" % (child, unicode)
        ))  # fmt: skip


def file_of(objects: list[bytes], catalog: int) -> bytes:
    """A PDF file of numbered objects, the first being 1."""
    out = io.BytesIO(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    out.seek(0, io.SEEK_END)
    places = []
    for number, data in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n" % number + data + b"\nendobj\n")
    table = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.writelines(b"%010d 00000 n \n" % place for place in places)
    out.write(b"trailer << /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, catalog, table))
    return out.getvalue()


def encrypted(data: bytes, password: str | bytes, algorithm: str = "AES-256") -> bytes:
    """The same file, readable with the password alone."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(data)))
    writer.encrypt(password, algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def wrap(text: str, measure: float, size: float = 10) -> list[str]:
    """The text in lines that Helvetica fits into so many points."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}", size) <= measure:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
