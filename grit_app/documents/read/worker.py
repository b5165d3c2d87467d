"""The process that reads one PDF: `python -m grit_app.documents.read.worker` < request > answers.

A PDF can be made to run forever or to eat all memory, and a thread cannot be stopped. A process can: it is limited here
and killed from `reading` when its time is up. Request: one JSON object. Answers: JSON lines `{"page": i, "pages": n}`,
then `{"document": {…}}` or `{"error": class, "message": sentence}`.
"""

import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grit_app.documents.document import Limits
from grit_app.documents.read.pdf.reader import read_pdf
from grit_app.errors import DocumentError

MAX_MEMORY_BYTES = 4 << 30


def _limit_memory() -> None:
    with contextlib.suppress(
        ImportError, ValueError, OSError
    ):  # no such limits on Windows, or stricter ones set already
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


def _answer(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    request = json.load(sys.stdin)
    _limit_memory()
    try:
        document = read_pdf(
            Path(request["path"]),
            request["name"],
            request["sha256"],
            password=request["password"],
            limits=Limits(**request["limits"]),
            progress=lambda page, pages: _answer(page=page, pages=pages),
            plain_copy=Path(request["plain_copy"]) if request["plain_copy"] else None,
        )
    except DocumentError as error:
        _answer(error=type(error).__name__, message=str(error))
    else:
        _answer(document=asdict(document))


if __name__ == "__main__":
    main()
