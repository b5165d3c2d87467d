"""Measures a checkpoint through the serving path, beside baselines in the same run.

    python -m training.evaluate --model PATH --suite DIR --json OUT [--limit N] [--parts sts,retrieval,…] [--calibrate]
                                [--files DIR [--headings]]

`DIR` holds the development files (see `training.evaluation.suite`). `--limit` draws so many questions, the same each
time, over fewer passages. Without it similarity and retrieval use the whole suite, answers ANSWER_LIMIT questions.
`--calibrate` first fits `vector_weight` and `answerable_threshold` on one half of the questions, writes them into the
checkpoint's grit_config.json, and measures with them. `--files` is a folder with the files that
assets/evaluation/pdf_questions.jsonl asks about: its score is then part of the result; with `--headings` also how many
right passages are found with and without the headings above them. From training code:

    values = evaluate(model, suite_folder, limit=60)          # flat: {"sts/model": 0.7, "retrieval/fused/recall@5": …}
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from grit_app.benchmark import environment
from grit_app.benchmark.inputs.passages import PassagePool
from grit_app.errors import GritError, InputError
from grit_app.gritlm import GritLM
from training.evaluation import answers, language, ranking
from training.evaluation.baselines import Encoder, minilm
from training.evaluation.calibrate import calibrate
from training.evaluation.documents import file_questions, headings_recall, table_questions
from training.evaluation.suite import Suite, load_suite
from training.evaluation.talk import talk

ANSWER_LIMIT = 240
DISTRACTORS = 150
"""Other passages among which the strategies' five are found."""

PARTS = ("sts", "retrieval", "cisi", "answers", "refusals", "bits_per_byte", "caches", "strategies", "talk", "speed")
TRAINING_PARTS = ("sts", "retrieval", "answers", "bits_per_byte")
"""What is measured during a run: without baselines, and without what takes minutes."""

ALL_SETS = ("wiki", "users", "nq")


def evaluate(
    model: GritLM, suite: Path | str | Suite, limit: int | None = None, parts: Sequence[str] = TRAINING_PARTS
) -> dict[str, float]:
    """Flat metric → value, without baselines: for use during training. Same questions for the same suite and limit."""
    loaded = suite if isinstance(suite, Suite) else load_suite(suite)
    return flatten(measure(model, loaded, limit=limit, parts=parts, encoder=None))


def measure(
    model: GritLM,
    suite: Suite,
    *,
    limit: int | None = None,
    parts: Sequence[str] = PARTS,
    encoder: Encoder | None = None,
    load_s: float = 0.0,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The parts asked for, each under its name. Raises InputError for a part that does not exist."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(f"There is no part {unknown[0]!r}. Use {', '.join(PARTS)}.")
    if limit is not None:
        suite = suite.smaller(limit, seed)
    asked = limit if limit is not None else ANSWER_LIMIT
    prose = [*suite.prose[:20], *suite.held_out][: max(4, asked // 4)]
    with PassagePool(model, suite.contexts() if {"retrieval", "answers", "refusals"} & set(parts) else ()) as pool:
        run: dict[str, Callable[[], Any]] = {
            "sts": lambda: ranking.similarity(model, suite, limit, encoder),
            "retrieval": lambda: ranking.retrieval(model, suite, pool, limit, encoder, seed),
            "cisi": lambda: ranking.cisi(model, suite, encoder, limit),
            "answers": lambda: answers.by_set(model, pool, suite, asked, seed),
            "refusals": lambda: answers.refusals(model, pool, suite.draw(ALL_SETS, asked // 2, seed), suite, seed),
            "bits_per_byte": lambda: {
                "stories": language.bits_per_byte(model, prose[:20]),
                **({"held_out": language.bits_per_byte(model, prose[20:])} if prose[20:] else {}),
            },
            "caches": lambda: answers.caches(model, suite.draw(("wiki",), asked, seed), seed),
            "strategies": lambda: answers.strategies(
                model, suite.draw(ALL_SETS, max(6, asked // 5), seed), suite.contexts()[:DISTRACTORS], seed
            ),
            "talk": lambda: talk(model),
            "speed": lambda: language.speed(model, suite.contexts()[:200], load_s),
        }
        result: dict[str, Any] = {}
        for part in parts:
            started_s = time.perf_counter()
            result[part] = run[part]()
            say(f"{part} ({time.perf_counter() - started_s:.0f} s): {json.dumps(rounded(result[part]))}")
    return result


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested numbers under names joined by slashes."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat[prefix + name] = float(value)
    return flat


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hugging Face name")
    parser.add_argument("--suite", required=True, type=Path, help="folder with the development files")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--limit", type=int, help="questions; unset: all, and fewer where the model writes")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure, separated by commas")
    parser.add_argument("--files", type=Path, help="folder with the files of assets/evaluation/pdf_questions.jsonl")
    parser.add_argument("--headings", action="store_true", help="with --files: what the headings above passages bring")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--calibrate", action="store_true", help="fit and write the checkpoint's search numbers first")
    options = parser.parse_args(arguments)
    try:
        if options.limit is not None and options.limit < 6:
            raise InputError(f"--limit must be at least 6, not {options.limit}.")
        result = _command(options)
    except GritError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def _command(options: Namespace) -> dict[str, Any]:
    suite = load_suite(options.suite)
    started_s = time.perf_counter()
    model = GritLM.from_pretrained(options.model, device=options.device)
    load_s = time.perf_counter() - started_s
    result: dict[str, Any] = {"model": model.describe(), "limit": options.limit}
    if options.calibrate:
        folder = Path(options.model)
        if not folder.is_dir():
            raise InputError("--calibrate writes into the checkpoint's folder, so --model must be a folder.")
        config, result["calibration"] = calibrate(model, suite)  # of all questions: seconds
        config.save(folder)
        model.config = config
        print(f"calibration: {json.dumps(rounded(result['calibration']))}", flush=True)
    parts = [part.strip() for part in options.parts.split(",") if part.strip()]
    measured = measure(
        model,
        suite,
        limit=options.limit,
        parts=parts,
        encoder=minilm(),
        load_s=load_s,
        say=lambda line: print(line, flush=True),
    )
    if options.files is not None:
        measured["files"] = file_questions(model, options.files)
        print(f"files: {json.dumps(rounded(measured['files']))}", flush=True)
        measured["tables"] = table_questions(model, options.files)
        print(f"tables: {json.dumps(rounded(measured['tables']))}", flush=True)
        if options.headings:
            measured["headings"] = headings_recall(model, options.files)
            print(f"headings: {json.dumps(rounded(measured['headings']))}", flush=True)
    return result | {"environment": environment.describe(model)} | measured


if __name__ == "__main__":
    sys.exit(main())
