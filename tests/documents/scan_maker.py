"""Scans made from known text: a page of text is drawn by PDFium, spoiled as scanners do, and kept as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pypdfium2
from PIL import Image, ImageFilter

from tests.documents.pdf_maker import Pdf, wrap


def text_page(columns: Sequence[str], size: float = 11) -> bytes:
    """A small page of one or more columns of text."""
    pdf = Pdf()
    page = pdf.page(width=420, height=230)
    width = (360 - 24 * (len(columns) - 1)) / len(columns)
    for number, text in enumerate(columns):
        page.lines(30 + number * (width + 24), 195, wrap(text, width, size), size, 1.35 * size)
    return pdf.bytes()


def scan(pages: Sequence[bytes], dpi: int = 150, skew: float = 0, turn: int = 0) -> bytes:
    """A PDF of pictures.

    skew   degrees, counter-clockwise
    turn   quarter turns, counter-clockwise
    """
    pictures = []
    for number, page in enumerate(pages):
        with pypdfium2.PdfDocument(page) as document:
            image = document[0].render(scale=dpi / 72).to_pil().convert("L")
        if skew:
            image = image.rotate(skew, resample=Image.Resampling.BICUBIC, fillcolor=250)
        image = image.filter(ImageFilter.GaussianBlur(dpi / 300))
        grain = np.random.default_rng(number).normal(0, 6, (image.height, image.width))
        grey = Image.fromarray((np.asarray(image) * 0.9 + grain).clip(0, 255).astype(np.uint8))
        pictures.append(grey.rotate(90 * turn, expand=True))
    out = io.BytesIO()
    pictures[0].save(out, "PDF", resolution=dpi, save_all=True, append_images=pictures[1:], quality=75)
    return out.getvalue()
