"""Start the workbench: settings, the page, and the model behind it (loaded while the page is already up)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# Before Gradio and the hub are imported: nothing is reported to anyone.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from grit_app.doors import check_port, make_usable, one_sentence
from grit_app.places import BUNDLED_MODEL, present
from grit_app.settings import MB, Settings, load

if TYPE_CHECKING:
    from grit_app.gritlm import GritLM


def load_model(settings: Settings) -> GritLM:
    """The model that the settings name. Raises ModelError or SettingsError with a sentence if there is none."""
    from grit_app.gritlm import GritLM
    from grit_app.gritlm.load.loading import resolve_model

    choice = resolve_model(settings.model, BUNDLED_MODEL, settings.quantization, settings.device)
    if choice.notice:
        print(choice.notice, flush=True)
    model = GritLM.from_pretrained(present(choice.source), quantization=settings.quantization, device=settings.device)
    model.config = model.config.overridden(
        repetition_penalty=settings.repetition_penalty, no_repeat_ngram_size=settings.no_repeat_ngram_size
    )
    if settings.memory_mb is not None:
        model.memory.limit_bytes = settings.memory_mb * MB
    if settings.engine == "openai":
        from grit_app.serve.remote import Engine, written_by

        return written_by(model, Engine(settings.base_url or "", settings.remote_model or ""))
    return model


def checked(settings: Settings) -> Settings:
    """The settings, if they can be served: a free port, a data folder that can be written, and weights that are whole.

    Raises a GritError with the sentence. Files are looked at by their headers and lengths; the hub is not asked.
    """
    check_port(settings.host, settings.port)
    make_usable(settings.data_folder)
    # Gradio keeps uploads here; it reads the variable when it is imported. Nothing outside this folder is ever served.
    os.environ["GRADIO_TEMP_DIR"] = str(settings.data_folder / "uploads")
    model = Path(BUNDLED_MODEL if settings.model == "auto" else settings.model)
    if model.exists():
        from grit_app.gritlm.load.size import read_weights
        from grit_app.gritlm.load.sources import find_folder

        read_weights(find_folder(model))
    return settings


def main(arguments: Sequence[str]) -> int:
    """Serve until interrupted. 0: ended by the user; status 2 and a sentence: the settings cannot be used."""
    with one_sentence():
        settings = load(arguments)
        print("Starting GRIT Workbench …", flush=True)  # imports take seconds, and a silent terminal looks dead
        checked(settings)
    from grit_app.ui.serving import serve

    serve(settings, lambda: load_model(settings))
    return 0


def command() -> NoReturn:
    """The command `grit-workbench`."""
    sys.exit(main(sys.argv[1:]))
