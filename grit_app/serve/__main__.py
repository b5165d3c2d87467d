"""The routes without the page: python -m grit_app.serve [--port P] [--model M] [any flag of app.py]."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from grit_app.doors import one_sentence
from grit_app.settings import load
from grit_app.start import checked, load_model

if TYPE_CHECKING:
    from grit_app.gritlm import GritLM

PORT = 8000


class Loaded:
    """A model that is there from the beginning."""

    state = "ready"
    failure = ""

    def __init__(self, model: GritLM) -> None:
        self._model = model

    def ready_model(self) -> GritLM:
        return self._model

    @contextmanager
    def using(self, cancel: threading.Event | None = None) -> Iterator[GritLM]:
        yield self._model


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted. 0: ended by the user; status 2 and a sentence: settings or model cannot be used."""
    with one_sentence():
        settings = load(sys.argv[1:] if arguments is None else arguments)
        settings = checked(replace(settings, host=settings.host or "127.0.0.1", port=settings.port or PORT))
        print("Loading the model …", flush=True)
        model = load_model(settings)
    import uvicorn

    from grit_app.serve.app import create_app

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("grit_app").setLevel(logging.INFO)
    app = create_app(Loaded(model), settings)
    print(f"Serving {model.name} at http://{settings.host}:{settings.port}/v1 (described at /docs)", flush=True)
    uvicorn.run(app, host=settings.host or "", port=settings.port or PORT, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
