"""What the chat sends to the model, keeps in the browser, and says under an answer."""

from __future__ import annotations

from typing import Any

import pytest

from grit_app.errors import InputError
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.write.decoding import GenerationStats
from grit_app.ui.base.messages import reply
from grit_app.ui.chat.handlers import (
    seed_of,
    seed_slip,
    short_line,
    spoken,
    statistics,
    without_refusals,
)


def test_an_empty_seed_is_a_new_draw_and_0_is_a_seed() -> None:
    assert [seed_of(text) for text in ("", "  ", None, "0", " 17 ")] == [None, None, None, 0, 17]


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "1e3", "²", str(2**63)])
def test_a_seed_that_is_no_number_is_a_sentence(text: str) -> None:
    with pytest.raises(InputError, match="whole number"):
        seed_of(text)
    assert 'role="alert"' in seed_slip(text) and seed_slip("7") == seed_slip("") == ""


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def stats(**changes: Any) -> GenerationStats:
    values: dict[str, Any] = {
        "prompt_tokens": 1200, "cached_tokens": 1100, "new_tokens": 64, "prefill_ms": 90.0, "ttft_ms": 120.0,
        "total_ms": 2000.0, "tokens_per_s": 34.21, "finish_reason": "stop",
    }  # fmt: skip
    return GenerationStats(**(values | changes))


def test_the_model_never_reads_statistics_or_empty_replies() -> None:
    history = [user("Hi"), reply("Hello", "first token after 1 s"), user("And?"), reply("  ")]
    said = spoken(history)
    assert said == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "And?"},
    ]
    assert spoken([{"role": "user", "content": "plain"}]) == [{"role": "user", "content": "plain"}]


def test_a_refusal_of_a_short_request_is_not_read_again() -> None:
    """One of them, and nearly all that was asked behind it was refused, too."""
    config = GritConfig(refusal_sentence="The text does not give the answer.")
    no = {"role": "assistant", "content": "The text does not give the answer."}
    long, short, last = (
        {"role": "user", "content": words}
        for words in ("The museum opens at ten. " * 10 + "What does it cost?", "When?", "Name a red fruit.")
    )
    yes = {"role": "assistant", "content": "Ten."}
    kept = [long, no, short, yes, last]
    said = [{"role": "user", "content": "Who wrote Hamlet?"}, no, *kept]
    assert without_refusals(said, config) == kept
    assert without_refusals(said, GritConfig(refusal_sentence="")) == said, "a model that never refuses"


def test_the_statistics_line_tells_cache_speed_and_end() -> None:
    line = statistics(stats())
    assert line == (
        "first token after 0.12 s · 34.2 tokens/s · 1,200 prompt tokens, 1,100 of them cached + 64 new · complete"
    )
    assert statistics(stats(), context=8192).endswith("64 new · 15% of 8,192 that fit · complete")
    assert short_line(stats()) == "2.00 s · 34.2 tokens/s"
    assert short_line(stats(finish_reason="cancelled")).endswith("stopped by you")
    assert "stopped by you" in statistics(stats(finish_reason="cancelled"))
    assert "length limit" in statistics(stats(finish_reason="length"))


def test_an_answer_that_never_began_claims_no_first_token() -> None:
    line = statistics(stats(ttft_ms=0.0, tokens_per_s=0.0, new_tokens=0, cached_tokens=0, finish_reason="cancelled"))
    assert line == "1,200 prompt tokens + 0 new · stopped by you"
