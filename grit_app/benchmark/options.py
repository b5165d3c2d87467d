"""Command-line options that the benchmark commands share, and how they load a model and write their result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from grit_app.benchmark.environment import fixed_threads
from grit_app.benchmark.inputs.shapes import SHAPES, checkpoint
from grit_app.errors import SettingsError
from grit_app.gritlm import GritLM


def numbers(value: str | list[int]) -> list[int]:
    """`256,1024` → [256, 1024]. The parser checks its own result again, so a list stays as it is."""
    return [int(part) for part in value.split(",")] if isinstance(value, str) else value


def names(value: str | list[str]) -> list[str]:
    """`hot,warm` → ["hot", "warm"]."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def model_parser(command: str, description: str) -> ArgumentParser:
    """A parser with the options of every command."""
    parser = ArgumentParser(
        prog=f"python -m grit_app.benchmark {command}", description=description, exit_on_error=False
    )
    parser.add_argument("--model", type=str | None, default=None, help="Folder or hub name; unset: the served model.")
    parser.add_argument(
        "--shape", type=str | None, default=None, help=f"Random weights of a shape instead: {', '.join(SHAPES)}."
    )
    parser.add_argument(
        "--tokenizer",
        type=Path | None,
        default=None,
        help="With --shape: a folder with tokenizer.json; unset: the served model's.",
    )
    parser.add_argument("--quantization", type=str, default="none", help="none, 8bit or 4bit.")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda.")
    parser.add_argument(
        "--dtype", type=str | None, default=None, help="float32 or bfloat16; unset: what the device does best."
    )
    parser.add_argument("--threads", type=int | None, default=None, help="Processor threads; unset: torch's choice.")
    parser.add_argument("--seed", type=int, default=0, help="Of texts and of random weights.")
    parser.add_argument("--json", type=Path | None, default=None, help="Where to write the result; unset: to stdout.")
    return parser


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Raises SettingsError with one sentence."""
    try:
        return parser.parse_args(list(argv))
    except ArgumentError as error:
        raise SettingsError(f"{' '.join(str(error).split())}. See --help.") from error


@contextmanager
def model_folder(options: Namespace) -> Iterator[str]:
    """The folder or name to load, with the thread count fixed while it is used."""
    with (
        fixed_threads(options.threads),
        checkpoint(options.model, options.shape, tokenizer=options.tokenizer) as folder,
    ):
        yield folder


def load_model(options: Namespace, folder: str) -> GritLM:
    """The model as the options want it."""
    return GritLM.from_pretrained(folder, options.quantization, options.device, options.dtype)


def write_result(result: dict[str, Any], path: Path | None) -> None:
    """As JSON, to a file (written aside and renamed) or to stdout."""
    text = json.dumps(result, indent=1, ensure_ascii=False, default=str)
    if path is None:
        sys.stdout.write(text + "\n")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(text + "\n", encoding="utf-8")
    aside.replace(path)


def teller() -> Callable[[str], None]:
    """Writes progress to stderr, a line each: stdout may hold the JSON."""

    def tell(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    return tell
