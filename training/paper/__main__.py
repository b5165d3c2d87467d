"""The paper's tables on a model, recorded as JSON, and the page of all recordings beside the published rows.

python -m training.paper COMMAND --model M --data DIR [--limit N] [--sets A,B] [--output assets/paper]

table1     embedding and generative tables: similarity, retrieval, classification by mteb; reading, choice and prose
           by lm-evaluation-harness
rerank     top 10 of the model's own search, reordered by the model
fewshot    one example in the instruction of the embedding, against none
kto        preference tuning by KTO and by DPO: vectors, answers and refusals before and after
rag        answers and time to the first token of every caching strategy
ablations  each row of the paper's ablation table as a run of training.train at equal budget
all        every command above in order, with the hours to expect; what is recorded for the same model and settings
           is kept, so a run that was stopped goes on
page       docs/paper.md from the recordings beside the published rows
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from jsonargparse import auto_cli

from grit_app.benchmark.show.paper import FOLDER
from grit_app.errors import GritError, InputError
from training.paper import embedder, fewshot, kto, page, rag, rerank, table1
from training.paper.plan import ablations
from training.paper.plan.arms import arms_of, load_recipe
from training.paper.plan.hours import Training, expected_hours, measure_speed
from training.paper.recording import PaperSettings
from training.paper.sets import check_names

RUNS: Final = {"table1": table1.measure, "rerank": rerank.measure, "fewshot": fewshot.measure, "rag": rag.measure}


def _command(name: str):  # type: ignore[no-untyped-def]
    def run(
        model: str,
        data: Path,
        limit: int | None = None,
        output: Path = FOLDER,
        device: str = "cpu",
        quantization: str = "none",
        sets: str = "",
        again: bool = True,
    ) -> None:
        settings = PaperSettings(model, data, limit, output, device, quantization, check_names(sets))
        settings.record(name, RUNS[name], again)
        print(page.section(name, output))

    run.__doc__ = (RUNS[name].__doc__ or "").split("\n")[0]
    return run


def run_all(
    model: str,
    data: Path,
    limit: int | None = None,
    output: Path = FOLDER,
    device: str = "cpu",
    quantization: str = "none",
    sets: str = "",
    recipe: Path = ablations.RECIPE,
    work: Path = Path("runs/paper"),
    pairs: int = 2000,
    steps: int = ablations.STEPS,
    seeds: int = ablations.SEEDS,
    arms: str = "",
) -> None:
    """Every measurement in order, with the hours to expect; what is recorded already for this model and these settings
    is kept, and a run that was stopped goes on where it was. What cannot be measured is named at the end."""
    settings = PaperSettings(model, data, limit, output, device, quantization, check_names(sets))
    _tell_hours(expected_hours(settings, measure_speed(settings.model), pairs, _training(recipe, arms, seeds, steps)))
    embedder.parity(data)  # before any number of ours
    todo: dict[str, Callable[[], object]] = {
        name: partial(settings.record, name, measure, again=False) for name, measure in RUNS.items()
    }
    todo["kto"] = partial(
        kto.run, model, data, pairs, limit=limit, output=output, work=work / "preferences", device=device, again=False
    )
    todo["ablations"] = partial(
        ablations.run,
        data,
        recipe,
        work / "ablations",
        steps,
        seeds,
        arms,
        limit=max(6, limit or 60),
        device=device,
        output=output,
    )
    missing = []
    for name, measure in todo.items():
        started_s = time.perf_counter()
        try:
            measure()
        except GritError as error:
            missing.append(f"{name}: {error}")
        print(f"{name}: {(time.perf_counter() - started_s) / 3600:.2f} hours", flush=True)
    if output == FOLDER:
        page.write()
    else:
        page.write(recordings=output, path=output / "paper.md")
    if missing:
        raise InputError("Not measured: " + " ".join(missing))


def _training(recipe: Path, arms: str, seeds: int, steps: int) -> Training | None:
    """What the ablations train; None, said why, where they cannot be run."""
    try:
        settings = load_recipe(recipe)
        return Training(settings, len(ablations.chosen_arms(arms, arms_of(settings))), seeds, steps)
    except GritError as error:
        print(f"ablations will be left out: {error}", flush=True)
        return None


def _tell_hours(expected: Mapping[str, float]) -> None:
    for name, hours in expected.items():
        print(f"{name:10} about {hours:6.2f} hours")
    print(f"{'all':10} about {sum(expected.values()):6.2f} hours, less what is recorded already", flush=True)


COMMANDS: Final = {
    **{name: _command(name) for name in RUNS},
    "kto": kto.run,
    "ablations": ablations.run,
    "all": run_all,
    "page": page.write,
}


def main(arguments: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        auto_cli(COMMANDS, as_positional=False, args=arguments)
    except GritError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
