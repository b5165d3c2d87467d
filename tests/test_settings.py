"""Settings: one source for flags, variables and defaults."""

from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from grit_app.errors import SettingsError
from grit_app.gritlm.cache.pack import Scheme
from grit_app.settings import Settings, load


def test_defaults_leave_the_choice_to_the_checkpoint_and_to_gradio():
    settings = load([], {})
    assert settings == Settings()
    assert (settings.model, settings.quantization, settings.device) == ("auto", "auto", "auto")
    assert (settings.host, settings.port, settings.share, settings.strategy, settings.k) == (
        None,
        None,
        False,
        None,
        None,
    )


def test_every_field_is_a_flag_and_a_variable():
    """A setting that only one of the two can reach would be a dead one on Spaces, or at the shell."""
    values = {
        "quantization": "4bit",
        "device": "cpu",
        "share": "true",
        "answer_mode": "free",
        "cache_scheme": "int8",
        "repetition_penalty": "1.3",
        "engine": "openai",
        "base_url": "http://localhost:1/v1",
        "vectors": "http://localhost:2",
        "k": "7",
    }
    needed = {"engine": {"base_url": values["base_url"]}}
    hints = Settings.__annotations__
    for field in fields(Settings):
        value = values.get(field.name) or ("77" if "int" in str(hints[field.name]) else "word")
        given = needed.get(field.name, {}) | {field.name: value}
        by_flag = getattr(load([part for name in given for part in (f"--{name}", given[name])], {}), field.name)
        by_variable = getattr(load([], {f"GRIT_{name.upper()}": given[name] for name in given}), field.name)
        assert by_flag == by_variable != field.default, field.name


def test_flag_wins_over_variable_and_variable_over_default():
    assert load([], {"GRIT_PORT": "9000"}).port == 9000
    assert load(["--port", "9001"], {"GRIT_PORT": "9000"}).port == 9001
    assert load([], {"GRIT_PORT": ""}).port is None


@pytest.mark.parametrize("word", ["1", "true", "yes", "ON"])
def test_switches_understand_common_words(word):
    assert load([], {"GRIT_SHARE": word}).share is True
    assert load(["--share"], {}).share is True


@pytest.mark.parametrize(
    ("args", "environ", "words"),
    [
        (["--port", "abc"], {}, "--port cannot be 'abc'. Use a whole number."),
        ([], {"GRIT_PORT": "abc"}, "GRIT_PORT cannot be 'abc'. Use a whole number."),
        (["--quantization", "3bit"], {}, "Use one of auto, none, 8bit, 4bit."),
        ([], {"GRIT_DEVICE": "tpu"}, "GRIT_DEVICE cannot be 'tpu'. Use one of auto, cpu, cuda."),
        (["--nope"], {}, "--nope"),
        (["--k", "0"], {}, "k must be at least 1, not 0."),
        (["--port", "70000"], {}, "at most 65535"),
        ([], {"GRIT_MODEL": "  "}, "model is empty"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_the_setting(args, environ, words):
    with pytest.raises(SettingsError) as caught:
        load(args, environ)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_folder_is_the_given_one_or_a_folder_for_user_data(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Settings().data_folder == tmp_path / "grit-workbench"
    assert Settings(data_dir=Path("here")).data_folder == Path("here")


def test_sizes_are_bytes_of_the_megabytes_shown():
    settings = Settings(max_file_mb=3, cache_budget_mb=0)
    assert (settings.max_file_bytes, settings.cache_budget_bytes) == (3_000_000, 0)


def test_every_scheme_of_caches_can_be_set() -> None:
    """Written out in the settings, which must not wait for torch."""
    assert get_args(get_type_hints(Settings)["cache_scheme"]) == get_args(Scheme)


def test_more_passages_than_a_question_may_ask_for_are_refused_at_the_start() -> None:
    """20 were accepted, and then each question was refused by the slider that ends at 16."""
    with pytest.raises(SettingsError, match="k must be at most 16, not 20"):
        Settings(k=20)
    assert Settings(k=16).k == 16
