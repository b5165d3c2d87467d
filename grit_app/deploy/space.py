"""A Hugging Face Space from a clone: which files, front matter and requirements, and what is wrong with them.

    staged = stage(folder, "zerogpu")     # a folder that can be uploaded, or pushed by git with LFS
    problems = check("zerogpu")           # sentences; empty if it can be published

Three kinds of hardware run the same code: a CPU with the small model, a GPU of one's own with GritLM-7B, and ZeroGPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

from grit_app.deploy.requirements import COMMAND, ROOT, app_pins, project, requirement_files

Hardware = Literal["cpu", "gpu", "zerogpu"]
HARDWARE: Final = get_args(Hardware)

SUGGESTED: Final[Mapping[str, str]] = {"cpu": "cpu-basic", "gpu": "l4x1", "zerogpu": "zero-a10g"}
PRELOADED: Final[Mapping[str, tuple[str, ...]]] = {"cpu": (), "gpu": ("GritLM/GritLM-7B",), "zerogpu": ()}
"""Weights that a Space fetches while it is built, so that no visitor waits for 14.5 GB."""

ZEROGPU_TORCH: Final = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
ZEROGPU_PYTHON: Final = "3.12.12"

LEFT_OUT: Final = ("tests", "training", "assets/evaluation", ".ci", ".github", "Dockerfile", "requirements-dev.txt")
LFS_SUFFIXES: Final = (".safetensors", ".pdf", ".png")
"""The hub refuses binary files that are not in LFS."""

PLAIN_BYTES: Final = 10_000_000
"""A larger file must be in LFS whatever it is."""

SPACE_BYTES: Final = 1_000_000_000
"""What a Space's repository may hold without asking."""

ATTRIBUTES: Final = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)


def tracked_files(root: Path = ROOT) -> list[Path]:
    """Files of the clone that a Space needs, as paths below `root`."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False).stdout
    listed = [Path(name) for name in names.split("\0") if name] or list(_walk(root))
    return [path for path in listed if not path.as_posix().startswith(LEFT_OUT) and (root / path).is_file()]


def _walk(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in relative.parts):
            yield relative


def front_matter(readme: str) -> dict[str, str]:
    """Keys and values of the block between the first two lines of dashes; lists stay empty."""
    found = re.match(r"---\n(.*?)\n---\n", readme, re.DOTALL)
    lines = found[1].splitlines() if found else []
    pairs = (line.partition(":") for line in lines if line and not line.startswith((" ", "-")))
    return {key.strip(): value.strip().strip('"') for key, _, value in pairs}


def space_readme(readme: str, hardware: Hardware) -> str:
    """The README with the front matter of a hardware."""
    changed = re.sub(r"^suggested_hardware: .*$", f"suggested_hardware: {SUGGESTED[hardware]}", readme, flags=re.M)
    if hardware == "zerogpu":
        changed = re.sub(r"^python_version: .*$", f'python_version: "{ZEROGPU_PYTHON}"', changed, flags=re.M)
    preload = "".join(f"  - {name}\n" for name in PRELOADED[hardware])
    return changed.replace("\n---\n", f"\npreload_from_hub:\n{preload}---\n", 1) if preload else changed


def space_requirements(pyproject: Mapping[str, Any], hardware: Hardware) -> str:
    """What a Space installs: on a CPU torch without CUDA, which would be gigabytes of nothing."""
    pins = sorted(app_pins(pyproject, on_zerogpu=hardware == "zerogpu"))
    if hardware != "cpu":
        return "".join(f"{pin}\n" for pin in pins)
    lines = [f"{pin}+cpu" if pin.startswith("torch==") else pin for pin in pins if not pin.startswith("bitsandbytes")]
    return "--extra-index-url https://download.pytorch.org/whl/cpu\n" + "".join(f"{line}\n" for line in lines)


def stage(target: Path, hardware: Hardware, root: Path = ROOT) -> list[Path]:
    """Writes the Space's files into the empty or new folder `target`; gives their paths."""
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty. Name a new folder.")
    for path in tracked_files(root):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target / path)
    readme = (root / "README.md").read_text(encoding="utf-8")
    (target / "README.md").write_text(space_readme(readme, hardware), encoding="utf-8")
    (target / "requirements.txt").write_text(space_requirements(project(root), hardware), encoding="utf-8")
    (target / ".gitattributes").write_text(ATTRIBUTES, encoding="utf-8")
    return sorted(path.relative_to(target) for path in target.rglob("*") if path.is_file())


def check(hardware: Hardware = "cpu", root: Path = ROOT) -> list[str]:
    """What keeps the clone from being published, in sentences. Needs no network."""
    pyproject = project(root)
    readme = space_readme((root / "README.md").read_text(encoding="utf-8"), hardware)
    return [
        *_check_front_matter(front_matter(readme), pyproject, root),
        *_check_versions(pyproject, root, hardware),
        *_check_files({path: (root / path).stat().st_size for path in tracked_files(root)}, root),
    ]


def _check_front_matter(facts: Mapping[str, str], pyproject: Mapping[str, Any], root: Path) -> Iterator[str]:
    for key in ("title", "sdk", "sdk_version", "python_version", "app_file", "license"):
        if not facts.get(key):
            yield f"README.md: the front matter lacks {key}."
    pinned = next(pin for pin in pyproject["project"]["dependencies"] if pin.startswith("gradio==")).partition("==")[2]
    if facts.get("sdk_version") != pinned:
        yield f"README.md: sdk_version is {facts.get('sdk_version')}, but pyproject.toml pins gradio {pinned}."
    if not (root / facts.get("app_file", "")).is_file():
        yield f"README.md: app_file {facts.get('app_file')!r} does not exist."
    if len(facts.get("short_description", "")) > 60:
        yield "README.md: short_description is longer than 60 characters."


def _check_versions(pyproject: Mapping[str, Any], root: Path, hardware: Hardware) -> Iterator[str]:
    for name, content in requirement_files(pyproject).items():
        if not (root / name).is_file() or (root / name).read_text(encoding="utf-8") != content:
            yield f"{name} is not what pyproject.toml says. Run `{COMMAND}`."
    torch = pyproject["tool"]["grit-workbench"]["torch-on-zerogpu"]
    if hardware == "zerogpu" and torch not in ZEROGPU_TORCH:
        yield f"pyproject.toml: ZeroGPU has no torch {torch}. Use one of {', '.join(ZEROGPU_TORCH)}."


def _check_files(sizes: Mapping[Path, int], root: Path) -> Iterator[str]:
    for path, size in sizes.items():
        if path.suffix in LFS_SUFFIXES:
            continue
        if size > PLAIN_BYTES:
            yield f"{path} has {size / 1e6:.0f} MB and is of a kind that is not sent by LFS: the hub refuses it."
        elif b"\0" in (root / path).read_bytes()[:8192]:
            yield f"{path} is binary and of a kind that is not sent by LFS: the hub refuses it."
    if sum(sizes.values()) > SPACE_BYTES:
        yield f"The files have {sum(sizes.values()) / 1e9:.1f} GB together; a Space holds 1 GB."
    if not any(path.name == "model.safetensors" or path.suffix == ".safetensors" for path in sizes):
        yield "There are no weights in assets/: a CPU Space would have no model."
