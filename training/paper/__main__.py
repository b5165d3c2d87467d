"""The paper's tables on a model, recorded as JSON, and the page of all recordings beside the published rows.

python -m training.paper COMMAND --model M --data DIR [--limit N] [--sets A,B] [--output assets/paper]

table1     embedding and generative tables: similarity, retrieval, classification by mteb; reading, choice and prose
           by lm-evaluation-harness
rerank     top 10 of the model's own search, reordered by the model
fewshot    one example in the instruction of the embedding, against none
kto        preference tuning by KTO and by DPO: vectors, answers and refusals before and after
rag        answers and time to the first token of every caching strategy
ablations  each row of the paper's ablation table as a run of training.train at equal budget
all        every command above in order; a recording that exists for the same model and settings is kept
page       docs/paper.md from the recordings beside the published rows
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Final

from jsonargparse import auto_cli

from grit_app.benchmark.show.paper import FOLDER
from grit_app.errors import GritError
from training.paper import ablations, fewshot, kto, page, rag, rerank, table1
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
) -> None:
    """Every measurement in order; what is recorded already for this model and these settings is kept."""
    settings = PaperSettings(model, data, limit, output, device, quantization, check_names(sets))
    for name, measure in RUNS.items():
        settings.record(name, measure, again=False)
    page.write()


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
