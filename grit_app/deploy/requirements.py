"""The requirements files, made from pyproject.toml: what pip in a clone and a Hugging Face Space install."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from grit_app.errors import SettingsError

ROOT: Final = Path(__file__).resolve().parents[2]
COMMAND: Final = "python -m grit_app.deploy --requirements"

APP: Final = f"# What the app needs to run; a Hugging Face Space installs this. Made by `{COMMAND}`.\n"
DEVELOPMENT: Final = (
    f"# The app, and what training, evaluation, tests and checks need beside it. Made by `{COMMAND}`.\n"
    "-r requirements.txt\n"
)


def project(root: Path = ROOT) -> dict[str, Any]:
    """pyproject.toml of a clone. Raises SettingsError where there is none: an installed package cannot be published."""
    file = root / "pyproject.toml"
    if not file.is_file():
        raise SettingsError("This is no clone of the source repository, so there is nothing to publish. Run it in one.")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def requirement_files(pyproject: Mapping[str, Any]) -> dict[str, str]:
    """Name → content of the requirements files."""
    extras = pyproject["project"]["optional-dependencies"]
    return {
        "requirements.txt": APP + _lines(app_pins(pyproject)),
        "requirements-dev.txt": DEVELOPMENT + _lines([*extras["train"], *extras["ocr"], *extras["test"]]),
    }


def app_pins(pyproject: Mapping[str, Any], *, on_zerogpu: bool = False) -> list[str]:
    """Exact requirements of the app. ZeroGPU allows a short list of torch versions and needs `spaces`."""
    settings = pyproject["tool"]["grit-workbench"]
    torch = settings["torch-on-zerogpu" if on_zerogpu else "torch"]
    pins = [f"torch=={torch}" if line.startswith("torch>") else line for line in pyproject["project"]["dependencies"]]
    return pins + (pyproject["project"]["optional-dependencies"]["spaces"] if on_zerogpu else [])


def write(root: Path = ROOT) -> list[str]:
    """Writes the files; the names of those that changed."""
    changed = []
    for name, content in requirement_files(project(root)).items():
        file = root / name
        if not file.is_file() or file.read_text(encoding="utf-8") != content:
            file.write_text(content, encoding="utf-8")
            changed.append(name)
    return changed


def _lines(pins: list[str]) -> str:
    return "".join(f"{pin}\n" for pin in sorted(set(pins)))
