"""Preferences by rules, and a few steps of KTO and DPO on a random model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grit_app.gritlm import GritConfig, GritLM
from grit_app.gritlm.load.loading import load_tokenizer
from grit_app.rag.strategies import build_layout
from training.config import ConfigError, TrainError
from training.data.rag_layouts import answer_ids
from training.mixture.corpus import holds
from training.prefer import tune as tuning
from training.prefer.__main__ import main
from training.prefer.pairs import Preference, preferences
from training.prefer.tune import PreferConfig, tune

REFUSAL = "The text does not give the answer."
ROWS: list[dict[str, Any]] = [
    {"question": f"Where does {name} live?", "passages": [f"{name} lives in {town} by the sea."], "gold": [0],
     "answer": town, "answerable": True}
    for name, town in (("Ada", "Lund"), ("Bo", "Kelso"), ("Cy", "Arden"), ("Di", "Inver"), ("Ed", "Calder"))
]  # fmt: skip
REFUSED = {"question": "Who makes honey?", "passages": ["The river rises in the hills."], "gold": [], "answer": "",
           "answerable": False}  # fmt: skip


def test_the_better_answer_is_supported_and_the_worse_is_not() -> None:
    made = preferences(ROWS * 20 + [REFUSED] * 400, REFUSAL)
    assert sum(each.rule == "made_up" for each in made) == sum(each.rule != "made_up" for each in made)
    assert {each.rule for each in made} == {"unsupported", "refused", "made_up"}
    for each in made:
        text = " ".join(each.passages)
        if each.rule == "made_up":
            assert each.chosen == REFUSAL and not holds(text, [each.rejected])
        else:
            assert holds(text, [each.chosen])
            assert each.rejected == REFUSAL if each.rule == "refused" else not holds(text, [each.rejected])
    refused = sum(each.rule == "refused" for each in made) / sum(each.rule != "made_up" for each in made)
    assert 0.1 < refused < 0.5


def test_an_answer_that_does_not_stand_in_its_passages_makes_no_preference() -> None:
    """The rule could not tell it from a made-up one."""
    astray = ROWS[0] | {"answer": "Rome"}
    assert not [each for each in preferences([astray, *ROWS[1:]], REFUSAL) if "Ada" in each.question]
    with pytest.raises(TrainError, match="No preference"):
        preferences([astray], REFUSAL)


def test_preferences_of_other_people_are_taken_as_they_are() -> None:
    row = {"prompt": "Say hello.", "chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Hi"}],
           "rejected": "No"}  # fmt: skip
    assert preferences([row], REFUSAL) == [Preference("Say hello.", (), "Hi", "No", "given")]


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_trl_reads_the_ids_that_the_app_sends(tiny_model_folder: Callable[..., Path], family: str) -> None:
    folder = tiny_model_folder(family)
    grit, tokenizer = GritConfig.load(folder), load_tokenizer(folder)
    prompts = tuning.Prompts(tokenizer)
    config = PreferConfig(model=str(folder), output_dir=Path("x"))
    for each in preferences([*ROWS, REFUSED], REFUSAL):
        row = tuning._row(each, tokenizer, grit, config)
        assert row is not None
        ids = build_layout("rag_doc_query", prompts, grit, each.question, each.passages).tail
        whole = tokenizer(row["prompt"] + row["chosen"])["input_ids"]
        assert whole == [*ids, *answer_ids(prompts, grit, each.chosen)[:-1]]
    short = PreferConfig(model=str(folder), output_dir=Path("x"), prompt_tokens=5)
    assert tuning._row(preferences(ROWS, REFUSAL)[0], tokenizer, grit, short) is None


@pytest.mark.filterwarnings("ignore")  # remarks of TRL and of what it imports
@pytest.mark.parametrize("method", ["kto", "dpo"])
def test_tuning_raises_the_better_answer_and_leaves_a_folder_for_the_app(
    tiny_model_folder: Callable[..., Path], tmp_path: Path, method: Any
) -> None:
    folder = tiny_model_folder("llama")
    config = PreferConfig(
        model=str(folder), output_dir=tmp_path / "tuned", method=method, epochs=6, batch_size=4, learning_rate=5e-3,
        precision="fp32", device="cpu",
    )  # fmt: skip
    drawn = preferences([*ROWS, *[REFUSED] * 5], REFUSAL)
    done = tune(config, drawn)
    assert done.pairs == 10 and done.steps >= 12
    before, after = (GritLM.from_pretrained(path, dtype="float32", device="cpu") for path in (folder, done.folder))

    def margin(model: GritLM) -> float:
        values = []
        for each in drawn:
            ids = build_layout("rag_doc_query", model.prompts, model.config, each.question, each.passages).tail
            answers = [answer_ids(model.prompts, model.config, text) for text in (each.chosen, each.rejected)]
            better, worse = model.score(list(ids), answers)
            values.append(better - worse)
        return float(np.mean(values))

    assert margin(after) > margin(before) + 0.5
    assert after.config == before.config
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_bad_settings_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="chunk_size"):
        PreferConfig(model="m", output_dir=tmp_path, chunk_size=1)
    with pytest.raises(SystemExit) as ended:
        main(["--model", str(tmp_path), "--output_dir", str(tmp_path / "x")])
    assert "error" in str(ended.value)
