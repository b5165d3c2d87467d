"""What publishing needs.

python -m grit_app.deploy --check                                        # offline; on a fresh clone
python -m grit_app.deploy --to OWNER/NAME --hardware cpu|gpu|zerogpu     # after `hf auth login`
python -m grit_app.deploy --stage FOLDER --hardware zerogpu              # the files, to be pushed by git with LFS
python -m grit_app.deploy --requirements                                 # requirements*.txt from pyproject.toml
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from grit_app.deploy import requirements, space
from grit_app.doors import one_sentence


def main(arguments: Sequence[str]) -> int:
    """0: done; 1: problems were found, or nothing was published; 2: bad usage."""
    parser = ArgumentParser(prog="python -m grit_app.deploy", description="What publishing needs.")
    parser.add_argument("--check", action="store_true", help="say what keeps this clone from being published")
    parser.add_argument("--to", type=str | None, default=None, help="publish as the Space OWNER/NAME")
    parser.add_argument("--stage", type=Path | None, default=None, help="write the Space's files into a new folder")
    parser.add_argument("--hardware", type=space.Hardware, default="cpu", help="what the Space runs on")
    parser.add_argument("--requirements", action="store_true", help="write requirements*.txt from pyproject.toml")
    options = parser.parse_args(list(arguments))
    if options.requirements:
        changed = requirements.write()
        print(f"Written: {', '.join(changed)}." if changed else "The requirements files are up to date.")
        return 0
    if not (options.check or options.to or options.stage):
        parser.print_help()
        return 2
    problems = [problem for hardware in _hardware(options) for problem in space.check(hardware)]
    for problem in dict.fromkeys(problems):
        print(problem, file=sys.stderr)
    if problems:
        return 1
    return _act(options)


def _hardware(options: Any) -> Sequence[space.Hardware]:
    """A mere check looks at all kinds."""
    return [options.hardware] if options.to or options.stage else list(space.HARDWARE)


def _act(options: Any) -> int:
    if options.stage:
        try:
            files = space.stage(options.stage, options.hardware)
        except FileExistsError as error:
            print(error, file=sys.stderr)
            return 2
        print(f"{len(files)} files in {options.stage}. Push them with git and LFS, or run --to.")
    if options.to:
        with tempfile.TemporaryDirectory(prefix="grit-space-") as folder:
            space.stage(Path(folder) / "space", options.hardware)
            print(publish(options.to, Path(folder) / "space"))
    if options.check:
        files = space.tracked_files()
        total = sum((requirements.ROOT / path).stat().st_size for path in files)
        print(f"Ready: {len(files)} files, {total / 1e6:.0f} MB; front matter, versions and sizes are right.")
    return 0


def publish(name: str, folder: Path) -> str:
    """Uploads a staged folder as a Space through the hub's own client, which sends large files by LFS; the address."""
    from huggingface_hub import HfApi

    api = HfApi()
    address = api.create_repo(name, repo_type="space", space_sdk="gradio", exist_ok=True)
    api.upload_folder(
        repo_id=name, repo_type="space", folder_path=folder, delete_patterns="*", commit_message="GRIT Workbench"
    )
    return str(address)


if __name__ == "__main__":
    with one_sentence():
        sys.exit(main(sys.argv[1:]))
