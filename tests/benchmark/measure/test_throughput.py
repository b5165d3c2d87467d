"""Speed beside other libraries: both sides must compute the same thing before a ratio is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grit_app.benchmark.__main__ import main
from grit_app.benchmark.measure import throughput
from grit_app.gritlm import GritLM
from tests.gritlm.load.test_int8 import int8_copy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of libraries that only the peer imports


def test_the_command_compares_both_tasks(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    flags = "--texts 24 --contexts 8,40 --new_tokens 5 --repeats 2 --device cpu --threads 1 --dtype float32"
    assert main(["throughput", "--model", str(tiny_model_folder("mistral")), *flags.split(), "--json", str(out)]) == 0
    encode, *decode = json.loads(out.read_text(encoding="utf-8"))["records"]
    assert (encode["task"], encode["texts"], encode["peer"]) == ("encode", 24, "sentence-transformers")
    assert [record["context"] for record in decode] == [8, 40]
    for record in (encode, *decode):
        assert record["ours_ms"]["n"] == record["peer_ms"]["n"] == 2
        assert record["first_ours_ms"]["n"] == record["first_peer_ms"]["n"] == 1
        assert len(record["tokens"]) == 2
        speeds = [1e3 * count / record["ours_ms"][end] for count in record["tokens"] for end in ("p10", "p90")]
        assert min(speeds) * 0.8 < record["ours_tokens_per_s"] < max(speeds) * 1.2
        assert record["ratio"] > 0
    for record in decode:
        assert record["same_tokens"] is True


def test_no_turn_repeats_a_length(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a new length costs is part of what people feel, and a repeated one hides it."""
    lengths: list[tuple[int, int]] = []
    stock = throughput._decode_peer

    def noted(model: Any, cache: Any, ids: list[int], new_tokens: int) -> Any:
        lengths.append((len(ids), cache.get_seq_length()))
        return stock(model, cache, ids, new_tokens)

    monkeypatch.setattr(throughput, "_decode_peer", noted)
    record = throughput.measure_decode(tiny_model, 20, new_tokens=3, repeats=3)
    assert len({ids for ids, _ in lengths}) == 4 and all(kept == ids - 1 for ids, kept in lengths)
    assert record["ours_ms"]["n"] == 3 and record["same_tokens"]


def test_other_vectors_are_not_compared(tiny_model: Any, tiny_model_folder: Callable[..., Path]) -> None:
    """A peer that attends causally computes something else; the same check passes for the right one."""
    texts = throughput.log_normal_texts(tiny_model, 6)
    peer = throughput.SentenceTransformersPeer(tiny_model_folder("mistral"), tiny_model)
    throughput.check_vectors(tiny_model, peer, texts)
    peer.trunk.config.is_causal = True
    with pytest.raises(throughput.DisagreementError, match="cannot be compared"):
        throughput.check_vectors(tiny_model, peer, texts)


def test_the_served_models_form_is_compared_too(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Int8 rows, which the peer cannot read, and a chat template, which it would put around every text."""
    folder = int8_copy(tiny_model_folder("llama"), tmp_path / "int8")
    template = "{% for message in messages %}{{ raise_exception('no chat') }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    model = GritLM.from_pretrained(folder, dtype="float32")
    peer = throughput.SentenceTransformersPeer(folder, model)
    throughput.check_vectors(model, peer, throughput.log_normal_texts(model, 6))


def test_lengths_are_log_normal(tiny_model: Any) -> None:
    """Median and spread of the logarithm as stated; no text is empty or longer than the cut."""
    lengths = np.array([len(text.split()) for text in throughput.log_normal_texts(tiny_model, 600)])
    assert lengths.min() >= 1 and lengths.max() <= throughput.MOST_WORDS
    assert np.median(lengths) == pytest.approx(throughput.MEDIAN_WORDS, rel=0.15)
    assert np.log(lengths).std() == pytest.approx(throughput.SPREAD, rel=0.15)
