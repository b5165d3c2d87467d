"""The process that works on one file: `python -m grit_app.documents.read.worker` < request > answers.

Request: one line of JSON with `task`, then perhaps bytes. Answers: JSON lines `{"stage": s, "page": i, "pages": n}`
while it works, then the result or `{"error": class, "message": sentence}`. Started and watched by process.py.
"""

import base64
import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grit_app.documents.document import Document, Limits
from grit_app.errors import DocumentError

MAX_MEMORY_BYTES = 4 << 30

Request = dict[str, Any]


def _limit_memory() -> None:
    with contextlib.suppress(
        ImportError, ValueError, OSError
    ):  # no such limits on Windows, or stricter ones set already
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


def _answer(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _read_pdf(request: Request, data: bytes) -> dict[str, Any]:
    from grit_app.documents.read.pdf.reader import read_pdf

    document = read_pdf(
        Path(request["path"]),
        request["name"],
        request["sha256"],
        password=request["password"],
        limits=Limits(**request["limits"]),
        progress=lambda stage, page, pages: _answer(stage=stage, page=page, pages=pages),
        plain_copy=Path(request["plain_copy"]) if request["plain_copy"] else None,
        left_out=request["left_out"],
    )
    return _sent(document)


def _sent(document: Document) -> dict[str, Any]:
    fields = asdict(document)
    return {"document": fields | {"words": base64.b64encode(document.words).decode()}}


def _read_text(request: Request, data: bytes) -> dict[str, Any]:
    from grit_app.documents.read.text.files import read_text_file

    document = read_text_file(
        Path(request["path"]).read_bytes(),
        request["name"],
        request["sha256"],
        Limits(**request["limits"]),
        request["encoding"],
    )
    return _sent(document)


def _read_office(request: Request, data: bytes) -> dict[str, Any]:
    from grit_app.documents.read.office.files import read_office_file

    content = Path(request["path"]).read_bytes()
    return _sent(read_office_file(content, request["name"], request["sha256"], Limits(**request["limits"])))


def _draw(request: Request, data: bytes) -> dict[str, Any]:
    from grit_app.documents.read.drawing import draw

    picture, size, boxes, marks = draw(
        data or Path(request["path"]),
        request["page"],
        request["passage"],
        request["password"],
        request["scale"],
        request["places"],
        request["marks"],
    )
    return {"picture": base64.b64encode(picture).decode(), "size": size, "boxes": boxes, "marks": marks}


TASKS: dict[str, Callable[[Request, bytes], dict[str, Any]]] = {
    "read_pdf": _read_pdf,
    "read_text": _read_text,
    "read_office": _read_office,
    "draw": _draw,
}


def main() -> None:
    request = json.loads(sys.stdin.buffer.readline())
    data = sys.stdin.buffer.read()
    _limit_memory()
    try:
        result = TASKS[request["task"]](request, data)
    except DocumentError as error:
        _answer(error=type(error).__name__, message=str(error), scanned=getattr(error, "scanned", 0))
    else:
        _answer(**result)


if __name__ == "__main__":
    main()
