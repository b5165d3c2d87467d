"""A model's own answers: in its own chat template, seeded, and filtered."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.helpers import write_rows
from training.config import ConfigError, TrainError
from training.data.formats import DataFile, GenerativeSample, open_datasets
from training.voice import Voice, VoiceConfig, is_good, requests, speak

TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def config(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> VoiceConfig:
    rows = [{"turns": [f"river {n} sea " * (1 + n % 4)], "kind": "know"} for n in range(8)]
    rows[2]["next"] = "Why?"  # type: ignore[assignment]
    return VoiceConfig(
        model=str(tiny_model_folder("mistral")),
        input=write_rows(tmp_path / "requests.jsonl", rows),
        output=tmp_path / "new" / "answers.jsonl.gz",
        template=TEMPLATE,
        system="Be brief.",
        max_new_tokens=200,
        temperature=3.0,
        top_p=1.0,
        batch_size=4,
    )


def test_answers_do_not_depend_on_the_batch(config: VoiceConfig) -> None:
    """Prompts are padded on the left and the padding is not seen: alone and in a batch the greedy answer is one."""
    voice = Voice(replace(config, temperature=0.0, max_new_tokens=12, repetition_penalty=1.0))
    prompt = voice.tokenizer.decode(voice.prompt(["Hello", "Hi.", "Bye"]))
    assert prompt == "[system] Be brief.\n[user] Hello\n[assistant] Hi.\n[user] Bye\n[assistant]"
    voice.tokenizer.eos_token_id = voice.prompt(["a"])[0]  # a token that no answer writes: each is as long as it may be
    chats = [["river"], ["the sea and the mountains and the school"], ["bees", "wax", "honey?"]]
    ids = []

    def kept(batch: list[list[str]]) -> list[str | None]:
        generate = voice.model.generate

        def watched(**arguments: object) -> object:
            written = generate(**arguments)  # type: ignore[operator]
            ids.append(written[:, arguments["input_ids"].shape[1] :].tolist())  # type: ignore[attr-defined]
            return written

        voice.model.generate = watched  # type: ignore[method-assign,assignment]
        try:
            return voice.answers(batch, 0)
        finally:
            voice.model.generate = generate  # type: ignore[method-assign]

    together = kept(chats)
    alone = [kept([chat])[0] for chat in chats]
    assert together == alone
    assert [row[:8] for row in ids[0]] == [batch[0][:8] for batch in ids[1:]]


def test_chats_are_written_as_training_reads_them(config: VoiceConfig) -> None:
    """The same seed gives the same file; a stopped command goes on where it ended."""
    said: list[str] = []
    count = speak(config, said.append)
    (dataset,) = open_datasets([DataFile(path=str(config.output))]) if count else (None,)
    assert count > 0 and dataset is not None, "this seed must let some answers end"
    samples = [dataset[index] for index in range(len(dataset))]
    assert all(isinstance(s, GenerativeSample) and len(s.turns) % 2 == 0 for s in samples)
    assert all(row["source"] == "self_know" for row in (dataset.rows[i] for i in range(len(dataset))))
    again = replace(config, output=config.output.with_name("again.jsonl"))
    speak(again, said.append)
    assert again.output.read_text() == "".join(
        json.dumps(dataset.rows[i], ensure_ascii=False) + "\n" for i in range(len(dataset))
    )
    stopped = replace(config, output=config.output.with_name("stopped.jsonl"), resume=True)

    def stop(line: str) -> None:
        if line.startswith("4 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        speak(stopped, stop)
    speak(stopped, said.append)
    assert stopped.output.read_text() == again.output.read_text()
    assert not list(stopped.output.parent.glob("*stopped*progress*"))


def test_bad_answers_are_left_out() -> None:
    assert is_good("Paris is the capital of France.")
    assert not is_good(None) and not is_good("  ")
    assert not is_good("I am SmolLM, made by Hugging Face.", ["smollm"])
    assert not is_good("one two three four " * 8)
    assert is_good(" ".join(f"word{n}" for n in range(40)))


def test_what_cannot_be_asked_is_a_sentence(config: VoiceConfig, tmp_path: Path) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [{"turns": ["a"]}, {"turns": ["a", "b"]}])
    with pytest.raises(TrainError, match=r'bad.jsonl, line 2: "turns" must be a list of texts'):
        requests(bad, None)
    with pytest.raises(TrainError, match="has no chat template"):
        Voice(replace(config, template=""))
    with pytest.raises(ConfigError, match="top_p"):
        replace(config, top_p=0.0)
