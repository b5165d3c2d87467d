"""Small files of every kind that readers get wrong, with their texts: `python -m tests.documents.corpus.make DIR`.

Each kind is an entry of `FILES`: name → (bytes, expected text).
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.documents.corpus import programs
from tests.documents.pdf_maker import file_of

FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"


def pdf(
    drawing: bytes,
    *,
    box: str = "0 0 612 792",
    page: str = "",
    catalog: str = "",
    font: bytes = FONT,
    more: tuple[bytes, ...] = (),
) -> bytes:
    """A page that draws `drawing` with the font F1. Objects: catalog, pages, page, font, drawing, then 6 … more."""
    return file_of(
        [
            f"<< /Type /Catalog /Pages 2 0 R {catalog} >>".encode(),
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            f"<< /Type /Page /Parent 2 0 R /MediaBox [{box}] /Contents 5 0 R {page} "
            f"{'' if '/Resources' in page else '/Resources << /Font << /F1 4 0 R >> >>'} >>".encode(),
            font,
            stream(drawing),
            *more,
        ],
        1,
    )


def stream(data: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), entries, data)


def lines(*texts: bytes, size: int = 12, x: int = 72) -> bytes:
    """Lines of text from the top of the page, with a blank line's distance, so that each is a paragraph."""
    return b"".join(
        b"BT /F1 %d Tf %d %d Td (%s) Tj ET " % (size, x, 700 - 40 * i, text) for i, text in enumerate(texts)
    )


def form() -> bytes:
    """A filled form: the value is drawn by the appearance of its field."""
    look = stream(
        b"/Tx BMC BT /F1 12 Tf 2 4 Td (Iris Lund) Tj ET EMC",
        b"/Type /XObject /Subtype /Form /BBox [0 0 200 20] /Resources << /Font << /F1 4 0 R >> >>",
    )
    field = (
        b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (Iris Lund) /Rect [160 696 360 716] /F 4 /P 3 0 R "
        b"/AP << /N 7 0 R >> >>"
    )
    return pdf(
        lines(b"Name of the owner:"),
        page="/Annots [6 0 R]",
        catalog="/AcroForm << /Fields [6 0 R] >>",
        more=(field, look),
    )


def field(entries: bytes, *more: bytes) -> bytes:
    """A form whose field is left to the viewer to draw."""
    widget = b"<< /Type /Annot /Subtype /Widget /Rect [180 696 360 716] /F 4 /P 3 0 R %s >>" % entries
    return pdf(
        lines(b"Name of the owner:"),
        page="/Annots [6 0 R]",
        catalog="/AcroForm << /Fields [6 0 R] /DA (/F1 12 Tf) >>",
        more=(widget, *more),
    )


def note(look: bool) -> bytes:
    """Text typed onto the page, with or without a drawing of its own."""
    drawing = stream(
        b"BT /F1 12 Tf 2 4 Td (Approved by Warden Hale) Tj ET",
        b"/Type /XObject /Subtype /Form /BBox [0 0 200 20] /Resources << /Font << /F1 4 0 R >> >>",
    )
    entry = (
        b"<< /Type /Annot /Subtype /FreeText /Contents (Approved by Warden Hale) /DA (/F1 12 Tf) "
        b"/Rect [72 556 272 576] /F 4 %s >>" % (b"/AP << /N 7 0 R >>" if look else b"")
    )
    return pdf(lines(b"Report on the mill."), page="/Annots [6 0 R]", more=(entry, drawing) if look else (entry,))


def layers() -> bytes:
    resources = "/Resources << /Font << /F1 4 0 R >> /Properties << /A 6 0 R /B 7 0 R >> >>"
    drawing = (
        b"/OC /A BDC "
        + lines(b"The toll is 12 crowns.")
        + b"EMC /OC /B BDC BT /F1 12 Tf 72 500 Td (It is 99.) Tj ET EMC"
    )
    return pdf(
        drawing,
        page=resources,
        catalog="/OCProperties << /OCGs [6 0 R 7 0 R] /D << /OFF [7 0 R] >> >>",
        more=(b"<< /Type /OCG /Name (same) >>", b"<< /Type /OCG /Name (same) >>"),
    )


def mapped(code: bytes, drawing: bytes) -> bytes:
    """A font whose map says that byte 128 stands for `code`."""
    cmap = (
        b"begincmap 1 begincodespacerange <00> <ff> endcodespacerange 1 beginbfrange <20> <7e> <0020> endbfrange "
        b"1 beginbfchar <80> <" + code + b"> endbfchar endcmap"
    )
    font = FONT[:-2] + b"/ToUnicode 6 0 R >>"
    return pdf(drawing, font=font, more=(stream(cmap),))


def type3() -> bytes:
    """A Type 3 font whose glyph space is text space itself."""
    letters = sorted(set(b"The dome key."))
    glyph = stream(b"0.6 0 0 0 0.5 0.7 d1 0 0 0.5 0.7 re f")
    procs = b" ".join(b"/c%d 6 0 R" % code for code in letters)
    differences = b" ".join(b"%d /c%d" % (code, code) for code in letters)
    pairs = b" ".join(b"<%02x> <%04x>" % (code, code) for code in letters)
    cmap = b"begincmap 1 begincodespacerange <00> <ff> endcodespacerange %d beginbfchar %s endbfchar endcmap" % (
        len(letters), pairs)  # fmt: skip
    font = (
        b"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 1 1] /FontMatrix [1 0 0 1 0 0] /CharProcs << %s >> "
        b"/Encoding << /Type /Encoding /Differences [%s] >> /FirstChar 32 /LastChar 126 /Widths [%s] "
        b"/Resources << >> /ToUnicode 7 0 R >>" % (procs, differences, b"0.6 " * 95)
    )
    return pdf(lines(b"The dome key."), font=font, more=(glyph, stream(cmap)))


def korean() -> bytes:
    text = "부두 규칙".encode("cp949").hex().encode()
    font = b"<< /Type /Font /Subtype /Type0 /BaseFont /Batang /Encoding /KSCms-UHC-H /DescendantFonts [6 0 R] >>"
    child = (
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Batang /DW 1000 /FontDescriptor 7 0 R "
        b"/CIDSystemInfo << /Registry (Adobe) /Ordering (Korea1) /Supplement 1 >> >>"
    )
    about = b"<< /Type /FontDescriptor /FontName /Batang /Flags 4 /ItalicAngle 0 /Ascent 800 /Descent -200 >>"
    return pdf(b"BT /F1 12 Tf 72 700 Td <" + text + b"> Tj ET", font=font, more=(child, about))


LIGATURE = (
    b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 6 0 R "
    b"/Encoding << /Type /Encoding /BaseEncoding /WinAnsiEncoding /Differences [128 /f_i] >> >>"
)
LAST_LETTER = (
    b"begincmap 1 begincodespacerange <00> <ff> endcodespacerange 2 beginbfrange <20> <7e> <0020> <80> <80> <0069> "
    b"endbfrange endcmap"
)

FILES: dict[str, tuple[bytes, str]] = {
    "form.pdf": (form(), "Name of the owner: Iris Lund"),
    "typed_note.pdf": (note(True), "Report on the mill.\nApproved by Warden Hale"),
    "typed_note_without_drawing.pdf": (note(False), "Report on the mill.\nApproved by Warden Hale"),
    "layer_off.pdf": (layers(), "The toll is 12 crowns."),
    "half_surrogate.pdf": (mapped(b"d83d", lines(b"A \\200 smile of Ada.")), "A \ufffd smile of Ada."),
    "two_letters_of_one_glyph.pdf": (mapped(b"00660066", lines(b"The o\\200er stands.")), "The offer stands."),
    "last_letter_of_a_ligature.pdf": (
        pdf(lines(b"The \\200nal word."), font=LIGATURE, more=(stream(LAST_LETTER),)),
        "The final word.",
    ),
    "replacement_text.pdf": (
        pdf(b"BT /F1 12 Tf 72 700 Td (Gri) Tj /Span << /ActualText <FEFF006600660069> >> BDC "
            b"(\\001) Tj EMC (th) Tj ET"),
        "Griffith",
    ),
    "type3_font.pdf": (type3(), "The dome key."),
    "korean_encoding.pdf": (korean(), "부두 규칙"),
    "box_corners_swapped.pdf": (pdf(lines(b"The swapped page."), box="612 792 0 0"), "The swapped page."),
    "box_below_zero.pdf": (pdf(b"1 0 0 1 -300 -400 cm " + lines(b"A shifted page."), box="-300 -400 312 392"),
                           "A shifted page."),
    "invisible_text.pdf": (pdf(lines(b"Seen by all.") + b"BT 3 Tr /F1 12 Tf 72 500 Td (Unseen words.) Tj ET"),
                           "Seen by all."),
    "tiny_text.pdf": (pdf(lines(b"Seen by all.") + b"BT /F1 0.4 Tf 72 500 Td (Unseen words.) Tj ET"), "Seen by all."),
    "white_text.pdf": (pdf(lines(b"Seen by all.") + b"1 g BT /F1 12 Tf 72 500 Td (Unseen words.) Tj ET"),
                       "Seen by all."),
    "white_text_on_black.pdf": (
        pdf(lines(b"Seen by all.") + b"0 g 60 490 300 30 re f 1 g BT /F1 12 Tf 72 500 Td (White words.) Tj ET"),
        "Seen by all.\nWhite words.",
    ),
    "value_of_a_parent.pdf": (field(b"/Parent 7 0 R", b"<< /FT /Tx /T (name) /V (Iris Lund) /Kids [6 0 R] >>"),
                              "Name of the owner: Iris Lund"),
    "choice.pdf": (field(b"/FT /Ch /Ff 131072 /T (name) /Opt [[(il) (Iris Lund)] [(am) (Ada Moor)]] /V (il)"),
                   "Name of the owner: Iris Lund"),
    "field_that_draws_nothing.pdf": (
        field(b"/FT /Tx /T (name) /V (Iris Lund) /AP << /N 7 0 R >>",
              stream(b"/Tx BMC EMC", b"/Type /XObject /Subtype /Form /BBox [0 0 200 20]")),
        "Name of the owner: Iris Lund"),
    "xfa_form.pdf": (pdf(lines(b"Please wait..."), catalog="/AcroForm << /Fields [] /XFA 6 0 R >> /NeedsRendering true",
                         more=(stream(b"<xdp/>"),)), "refused: is an XFA form"),
    "negative_size.pdf": (pdf(b"1 0 0 -1 0 792 cm BT /F1 -12 Tf -1 0 0 1 72 132 Tm (Upright words.) Tj ET"),
                          "Upright words."),
    "cropped_picture.pdf": (pdf(lines(b"Seen by all.") + b"q 72 600 90 90 re W n BT /F1 12 Tf 300 500 Td (Cut off.) Tj "
                                b"ET Q"), "Seen by all."),
    "bullet_of_symbol.pdf": (mapped(b"f0b7", lines(b"\\200 The first point.")), "• The first point."),
    "gb18030.txt": ("钥匙由王主任保管。桥梁检修报告。".encode("gb18030"), "钥匙由王主任保管。桥梁检修报告。"),
    "big5.txt": ("鑰匙由王主任保管。橋樑檢修報告。".encode("big5"), "鑰匙由王主任保管。橋樑檢修報告。"),
    "utf16_chinese_without_mark.txt": ("钥匙由王主任保管。桥梁检修报告。".encode("utf-16-le"),
                                       "钥匙由王主任保管。桥梁检修报告。"),
    "terminal_colours.log": (b"\x1b[31mERROR\x1b[0m The pump failed.", "ERROR The pump failed."),
    "soft_hyphens.txt": ("The har\u00adbour is open.".encode(), "The harbour is open."),
    "separator_line.csv": (b"sep=;\r\nName;Cost\r\nMoor;3\r\n", "Name | Cost\nMoor | 3"),
    "line_end_in_a_cell.csv": (b'Name;Note\r\n"Lund; Iris";"says ""yes""\r\nand no"\r\n',
                               'Name | Note\nLund; Iris | says "yes" and no'),
    "words_like_tags.md": (b"Run x with <FILE>, stop at </s>, <b>never</b> sooner.<br>Then go.",
                           "Run x with <FILE>, stop at </s>, never sooner. Then go."),
    **programs.FILES,
    "cut_inside_a_letter.txt": ("Café Zürich is kept by José Müller.\n".encode() * 2 + b"Na\xc3",
                                "Café Zürich is kept by José Müller.\nCafé Zürich is kept by José Müller.\nNa\ufffd"),
    "windows_1251.txt": ("Ключ хранит смотритель Пётр Орлов.".encode("cp1251"), "Ключ хранит смотритель Пётр Орлов."),
    "shift_jis.txt": ("鍵は山田さんが保管しています。".encode("shift_jis"), "鍵は山田さんが保管しています。"),
    "utf16_without_mark.txt": ("The key is kept by Łucja.".encode("utf-16-le"), "The key is kept by Łucja."),
    "line_separators.txt": ("One.\x85Two.\u2028Three.\u2029Four.".encode(), "One.\nTwo.\nThree.\nFour."),
    "zero_bytes.txt": (b"The treasurer is Ada Moor.\x00\nThe fee is 40 crowns.\x00",
                       "The treasurer is Ada Moor.\nThe fee is 40 crowns."),
    "binary.txt": (bytes(range(256)) * 4, "refused: binary data"),
    "fence_on_one_line.md": (b"Run:\n\n```make all```\n\n# Next\n\nEnd.", "Run:\nmake all\nNext\nEnd."),
    "code_spans.md": (b"`__init__.py` takes `**kwargs`, \\*really\\*.", "__init__.py takes **kwargs, *really*."),
    "pipes.md": (b"cat a.log | wc -l, or `<|end|>`\n\n| A | B |\n|---|---|\n| 1 | 2 |",
                 "cat a.log | wc -l, or <|end|>\nA B\n1 2"),
}  # fmt: skip


def make(folder: Path) -> None:
    """Writes every file with its expected text beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (data, text) in FILES.items():
        (folder / name).write_bytes(data)
        (folder / f"{name}.expected.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
