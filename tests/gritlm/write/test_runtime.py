"""The own forward pass must be the stock model's, for every family; it only moves fewer bytes."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from grit_app.gritlm.cache.kv_cache import KVCache, join
from grit_app.gritlm.cache.rope import Rope
from grit_app.gritlm.errors import Cancelled, InputError, ModelError
from grit_app.gritlm.write import runtime
from grit_app.gritlm.write.grouped_attention import CHUNK_TOKENS, FOLDED_TOKENS, lower_right
from grit_app.gritlm.write.runtime import Decoder
from tests.conftest import FAMILIES, tiny_hf_model

TOLERANCE = 1e-4


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 512, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def stock_logits(hf_model: Any, ids: list[int]) -> Tensor:
    """[t, vocabulary] of one plain causal forward."""
    return hf_model(torch.tensor([ids]), is_causal=True, use_cache=False).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_tail_and_steps_equal_one_stock_forward(family: str) -> None:
    """However a prompt is cut into reads (a long one, a short one, single tokens), logits are the stock model's."""
    hf_model = tiny_hf_model(family)
    ids = random_ids(40)
    expected = stock_logits(hf_model, ids)
    assert expected.std() > 0.5, "flat logits would hide errors"
    decoder = Decoder(hf_model)
    space = decoder.workspace(None, new_tokens=len(ids))
    read = 0
    for count in (25, 9, 1, 1, 4):
        logits = decoder.logits(ids[read : read + count], space)
        read += count
        assert (logits - expected[read - 1]).abs().max() < TOLERANCE
    assert space.length == read == len(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_stock_generate(family: str) -> None:
    """The same text as the library's own loop."""
    hf_model = tiny_hf_model(family)
    prompt = random_ids(12, seed=1)
    expected = hf_model.generate(
        torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None
    )[0, 12:].tolist()
    decoder = Decoder(hf_model)
    space = decoder.workspace(None, new_tokens=40)
    tokens, unread = [], prompt
    for _ in range(20):
        tokens.append(int(decoder.logits(unread, space).argmax()))
        unread = tokens[-1:]
    assert tokens == expected
    assert len(set(tokens)) > 3, "a model that repeats one token proves little"


@pytest.mark.parametrize(
    "tail", [2, FOLDED_TOKENS, FOLDED_TOKENS + 1, CHUNK_TOKENS, CHUNK_TOKENS + 1, 2 * CHUNK_TOKENS + 30]
)
def test_tails_of_every_length_see_exactly_what_comes_before_them(tail: int) -> None:
    """Short tails are folded, longer ones are not, the longest use slices of one mask: each has its own border."""
    hf_model = tiny_hf_model("mistral")
    ids = random_ids(7 + tail)
    decoder = Decoder(hf_model)
    space = decoder.workspace(None, new_tokens=len(ids))
    decoder.hidden(ids[:7], space)
    hidden = decoder.hidden(ids[7:], space)
    logits = decoder.project(hidden[0])
    assert (logits - stock_logits(hf_model, ids)[7:]).abs().max() < TOLERANCE


def test_reading_does_not_write_to_the_shared_configuration() -> None:
    """The library's own switch for the attention kind is not thread-safe; this pass must not depend on it."""
    hf_model = tiny_hf_model("mistral")
    ids = random_ids(12)
    expected = stock_logits(hf_model, ids)[-1]
    hf_model.config.is_causal = False  # what an embedding pass in another thread leaves behind
    decoder = Decoder(hf_model)
    logits = decoder.logits(ids, decoder.workspace(None, len(ids)))
    assert (logits - expected).abs().max() < TOLERANCE
    assert hf_model.config.is_causal is False


def test_a_tree_reads_every_branch_as_if_it_were_alone() -> None:
    """Nodes a - b - c and a - d on top of a prompt: d must see a, but neither b nor c, and stand where b stands."""
    hf_model = tiny_hf_model("qwen3")
    prompt, (a, b, c, d) = random_ids(9), random_ids(4, seed=1)
    decoder = Decoder(hf_model)
    space = decoder.workspace(None, new_tokens=20)
    decoder.hidden(prompt, space)
    rows = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]
    tree = (torch.tensor([0, 1, 2, 1]), torch.tensor(rows, dtype=torch.bool))
    found = decoder.project(decoder.hidden([a, b, c, d], space, tree=tree)[0])
    assert space.length == len(prompt), "a tree is looked at, not added"
    straight, branch = stock_logits(hf_model, [*prompt, a, b, c]), stock_logits(hf_model, [*prompt, a, d])
    expected = torch.cat([straight[-3:], branch[-1:]])
    assert (found - expected).abs().max() < TOLERANCE


def test_cancelling_between_layers_leaves_the_workspace_as_it_was() -> None:
    hf_model = tiny_hf_model("mistral")
    decoder = Decoder(hf_model)
    space = decoder.workspace(None, new_tokens=30)
    ids = random_ids(20)
    decoder.hidden(ids[:10], space)

    class SetAfterOneLook(threading.Event):
        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 1

    with pytest.raises(Cancelled):
        decoder.hidden(random_ids(10, seed=5), space, cancel=SetAfterOneLook())
    assert space.length == space.position == 10
    assert (decoder.logits(ids[10:], space) - stock_logits(hf_model, ids)[-1]).abs().max() < TOLERANCE


def test_growing_keeps_what_was_read() -> None:
    hf_model = tiny_hf_model("mistral")
    decoder, ids = Decoder(hf_model), random_ids(30)
    space = decoder.workspace(None, new_tokens=10)
    decoder.hidden(ids[:10], space)
    keys = space.keys[0]
    space.make_room(20)
    assert space.keys[0] is not keys and space.capacity >= 30
    keys = space.keys[0]
    space.make_room(5)
    assert space.keys[0] is keys
    assert (decoder.logits(ids[10:], space) - stock_logits(hf_model, ids)[-1]).abs().max() < TOLERANCE


def test_a_joined_cache_lends_its_room_to_one_answer() -> None:
    """The first workspace copies nothing; while it is open the second one copies, and a tail that does not fit, too."""
    hf_model = tiny_hf_model("mistral")
    decoder = Decoder(hf_model)
    keys = torch.randn(2, 2, 12, 8)
    cache = join([KVCache(keys, keys.clone(), torch.arange(12), 0, "causal")], Rope.of(hf_model), room_tokens=6)
    first, second = decoder.workspace(cache, 6), decoder.workspace(cache, 6)
    assert first.keys[0].data_ptr() == cache.keys[0].data_ptr() != second.keys[0].data_ptr()
    first.close()
    first.close()  # closing again is harmless
    third, fourth = decoder.workspace(cache, 7), decoder.workspace(cache, 6)
    assert third.keys[0].data_ptr() != cache.keys[0].data_ptr() == fourth.keys[0].data_ptr()


def test_low_precision_equals_the_stock_model_in_that_precision() -> None:
    """bfloat16 is what a GPU serves; only its own rounding may differ."""
    hf_model = tiny_hf_model("mistral").to(torch.bfloat16)
    decoder, ids = Decoder(hf_model), random_ids(20)
    space = decoder.workspace(None, new_tokens=20)
    decoder.hidden(ids[:15], space)
    assert space.keys[0].dtype == torch.bfloat16
    logits, expected = decoder.logits(ids[15:], space), stock_logits(hf_model, ids)[-1].float()
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


def test_models_and_caches_that_do_not_fit_are_refused_with_a_sentence() -> None:
    with pytest.raises(ModelError, match="window of 16 tokens"):
        Decoder(tiny_hf_model("mistral", sliding_window=16))
    with pytest.raises(ModelError, match="'gpt2'"):
        from transformers import GPT2Config, GPT2LMHeadModel

        Decoder(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=32)))
    decoder = Decoder(tiny_hf_model("mistral"))
    for shape, dtype in (((3, 2, 4, 8), torch.float32), ((2, 2, 4, 8), torch.bfloat16)):
        keys = torch.zeros(shape, dtype=dtype)
        with pytest.raises(ModelError, match="different model"):
            decoder.workspace(KVCache(keys, keys, torch.arange(4), 0, "causal"), 5)
    with pytest.raises(InputError, match="do not fit"):
        decoder.hidden(random_ids(5), decoder.workspace(None, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_cache_from_the_cpu_gives_the_same_tokens() -> None:
    """Caches come from files, so they lie in the machine's memory and cross the bus layer by layer."""
    hf_model, ids = tiny_hf_model("mistral"), random_ids(30)
    expected = stock_logits(hf_model, ids)[-1]
    host = Decoder(hf_model)
    space = host.workspace(None, 20)
    host.hidden(ids[:20], space)
    cache = KVCache(torch.stack(space.keys), torch.stack(space.values), torch.tensor(ids[:20]), 0, "causal")
    hf_model.to("cuda")
    device = Decoder(hf_model)
    for part in (cache, join([cache], Rope.of(hf_model))):
        logits = device.logits(ids[20:], device.workspace(part, 10))
        assert (logits - expected).abs().max() < 1e-3


def test_the_plan_of_a_gpu_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts and tails without a mask, run here on the CPU."""
    monkeypatch.setattr(runtime, "attention_plan", lambda cached, count, *rest: lower_right(cached, count))
    hf_model = tiny_hf_model("mistral")
    ids = random_ids(7 + CHUNK_TOKENS + 40)
    decoder = Decoder(hf_model)
    space = decoder.workspace(None, new_tokens=len(ids))
    parts = [decoder.hidden(part, space)[0] for part in (ids[:7], ids[7:30], ids[30:31], ids[31:])]
    assert (decoder.project(torch.cat(parts)) - stock_logits(hf_model, ids)).abs().max() < TOLERANCE
