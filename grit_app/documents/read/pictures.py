"""A page as an image, with a passage boxed, drawn in a process of its own: a page can be made to draw for ever."""

import base64
import io
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from grit_app.documents.read.process import BrokeDown, OutOfTime, run
from grit_app.errors import DocumentError

Box = tuple[int, int, int, int]

SECONDS = 20.0  # of processor time for one page; an honest one takes a tenth of a second


@dataclass(frozen=True)
class Picture:
    """A page as people see it."""

    image: Image.Image
    boxes: tuple[Box, ...]
    """(left, top, right, bottom) in pixels of the image; empty where the passage was not found on the page."""


def page_picture(
    pdf: Path | bytes,
    page_index: int,
    passage: str,
    password: str | None = None,
    scale: float = 1.5,
    *,
    seconds: float = SECONDS,
    cancel: threading.Event | None = None,
) -> Picture:
    """The page with the passage's place on it.

    pdf       the file or its bytes
    scale     pixels a point (1/72 inch); less where the page is very large
    seconds   of processor time, after which the page counts as one that cannot be shown
    Raises DocumentError if the file has no such page or cannot be drawn; Cancelled.
    """
    request = {"page": page_index, "passage": passage, "password": password, "scale": scale,
               "path": None if isinstance(pdf, bytes) else str(Path(pdf).resolve())}  # fmt: skip
    try:
        answer = run("draw", request, seconds, data=pdf if isinstance(pdf, bytes) else b"", cancel=cancel)
    except OutOfTime:
        raise DocumentError(
            f"Page {page_index + 1} cannot be shown: drawing it took more than {seconds:.0f} seconds."
        ) from None
    except BrokeDown:
        raise DocumentError(f"Page {page_index + 1} cannot be shown: drawing it broke down.") from None
    image = Image.open(io.BytesIO(base64.b64decode(answer["picture"])))
    return Picture(image.convert("RGB"), tuple((a, b, c, d) for a, b, c, d in answer["boxes"]))
