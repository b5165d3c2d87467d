"""A page as an image, with a passage boxed, drawn in a process of its own: a page can be made to draw for ever."""

import base64
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from grit_app.documents.places import Rect
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
    marks: tuple[Box, ...] = ()
    """Of the sentences in it on which an answer rests."""


def page_picture(
    pdf: Path | bytes,
    page_index: int,
    passage: str,
    password: str | None = None,
    scale: float = 1.5,
    *,
    places: Sequence[Rect] = (),
    marks: Sequence[Rect] = (),
    seconds: float = SECONDS,
    cancel: threading.Event | None = None,
) -> Picture:
    """The page with the passage's place on it.

    pdf       the file or its bytes
    passage   text to look for on the page, where its places are not known
    places    of the passage's words, from `places.boxes`
    marks     of the words of the sentences to be marked in it
    scale     pixels a point (1/72 inch); less where the page is very large
    seconds   of processor time, after which the page counts as one that cannot be shown
    Raises DocumentError if the file has no such page or cannot be drawn; Cancelled.
    """
    request = {
        "page": page_index,
        "passage": passage,
        "password": password,
        "scale": scale,
        "places": places,
        "marks": marks,
        "path": None if isinstance(pdf, bytes) else str(Path(pdf).resolve()),
    }
    try:
        answer = run("draw", request, seconds, data=pdf if isinstance(pdf, bytes) else b"", cancel=cancel)
    except OutOfTime:
        raise DocumentError(
            f"Page {page_index + 1} cannot be shown: drawing it took more than {seconds:.0f} seconds."
        ) from None
    except BrokeDown:
        raise DocumentError(f"Page {page_index + 1} cannot be shown: drawing it broke down.") from None
    image = Image.open(io.BytesIO(base64.b64decode(answer["picture"])))
    boxes, marked = (tuple((a, b, c, d) for a, b, c, d in answer[key]) for key in ("boxes", "marks"))
    return Picture(image.convert("RGB"), boxes, marked)
