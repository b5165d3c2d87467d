"""Where the files lie that are not code: in a clone beside the packages, in an installed package inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grit_app.errors import SettingsError

_PACKAGE: Final = Path(__file__).resolve().parent
_CLONE: Final = _PACKAGE.parent / "assets"
_INSTALLED: Final = _PACKAGE / "assets"

# Its own first: beside an installed package may lie the assets of another one.
ASSETS: Final = _INSTALLED if _INSTALLED.is_dir() else _CLONE
"""Style sheet, samples and recorded measurements."""

BUNDLED_MODEL: Final = _CLONE / "gritlm-135m"
"""The weights that a clone carries and an installed package does not."""


def present(source: str) -> str:
    """A model's source as it was given. Raises SettingsError for the bundled model where it is not there."""
    if source == str(BUNDLED_MODEL) and not BUNDLED_MODEL.is_dir():
        raise SettingsError(
            f"The small model is not part of the installed package: it lies in assets/{BUNDLED_MODEL.name} of the "
            "source repository. Run app.py from a clone of it, or name a model: --model FOLDER, or --model OWNER/NAME "
            "from the Hugging Face hub."
        )
    return source
