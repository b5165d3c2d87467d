"""Joined caches against one forward of the same layout under its mask and positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grit_app.gritlm.cache import kv_cache
from grit_app.gritlm.cache.kv_cache import KVCache, join
from grit_app.gritlm.cache.rope import Rope
from grit_app.gritlm.errors import InputError, ModelError
from grit_app.gritlm.layout import Block, Layout, Positions, additive_mask
from grit_app.gritlm.write.runtime import Decoder
from tests.conftest import FAMILIES, tiny_hf_model

TOLERANCE = 1e-4
HEADER = [1, 40, 41, 42]


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 512, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def document(length: int, seed: int, header: list[int] = HEADER) -> Block:
    return Block([*header, *random_ids(length, seed)], header_length=len(header))


@torch.inference_mode()
def encode(hf_model: Any, block: Block) -> KVCache:
    """The cache of one block, from a plain pass of the stock model."""
    output = hf_model.model(
        torch.tensor([block.ids]), is_causal=block.attention == "causal", use_cache=True, return_dict=True
    )
    layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
    return KVCache.harvest(layers, 0, block.ids, block.header_length, block.attention)


@torch.inference_mode()
def one_pass(hf_model: Any, layout: Layout) -> Tensor:
    """Logits [tail, vocabulary] of the whole layout in one masked forward."""
    mask = additive_mask(layout.mask(), torch.float32)[None, None]
    logits = hf_model(
        layout.input_ids()[None],
        attention_mask=mask,
        position_ids=layout.position_ids()[None],
        use_cache=False,
        is_causal=True,
    ).logits[0]
    return logits[slice(*layout.tail_span)]


def cached(hf_model: Any, layout: Layout) -> Tensor:
    """The same, from the blocks' own caches, joined."""
    cache = join(
        [encode(hf_model, block) for block in layout.blocks], Rope.of(hf_model), layout.positions, layout.keep_headers
    )
    assert cache.length == layout.cached_length
    decoder = Decoder(hf_model)
    space = decoder.workspace(cache, len(layout.tail))
    return decoder.project(decoder.hidden(list(layout.tail), space)[0])


def some_layout(documents: int, positions: Positions = "consecutive", **changes: Any) -> Layout:
    lengths = [9, 14, 6, 11]
    blocks = [document(lengths[index], seed=index) for index in range(documents)]
    return Layout(blocks, random_ids(8, seed=99), positions=positions, **changes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("documents", [1, 2, 3, 4])
def test_joined_documents_equal_one_masked_forward(family: str, documents: int) -> None:
    hf_model = tiny_hf_model(family)
    layout = some_layout(documents)
    expected = one_pass(hf_model, layout)
    assert expected.std() > 0.5, "flat logits would hide errors"
    assert (cached(hf_model, layout) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("documents", [2, 3])
def test_colliding_positions_equal_one_masked_forward(documents: int) -> None:
    """The published form is described by the same layout; it must really collide."""
    hf_model = tiny_hf_model("mistral")
    layout = some_layout(documents, "colliding")
    expected = one_pass(hf_model, layout)
    assert (cached(hf_model, layout) - expected).abs().max() < TOLERANCE
    consecutive = cached(hf_model, some_layout(documents))
    assert (consecutive - expected).abs().max() > 0.1, "positions must matter for this test to mean anything"


@pytest.mark.parametrize("family", FAMILIES)
def test_question_cache_behind_documents_equals_one_masked_forward(family: str) -> None:
    """A question has another, longer header (its instruction): its own length is dropped, not the documents'."""
    question = document(7, seed=50, header=[1, 60, 61, 62, 63, 64, 65])
    layout = Layout([*some_layout(2).blocks, question], random_ids(5, seed=98))
    hf_model = tiny_hf_model(family)
    assert (cached(hf_model, layout) - one_pass(hf_model, layout)).abs().max() < TOLERANCE


def test_kept_headers_equal_one_masked_forward() -> None:
    hf_model = tiny_hf_model("llama")
    layout = some_layout(3, keep_headers=True)
    assert layout.cached_length == sum(map(len, layout.blocks))
    assert (cached(hf_model, layout) - one_pass(hf_model, layout)).abs().max() < TOLERANCE


def test_causal_and_bidirectional_blocks_join() -> None:
    """A causal document in front of a bidirectional question is still isolated blocks."""
    causal = Block([1, *random_ids(9, seed=3)], attention="causal")
    layout = Layout([causal, document(6, seed=4)], random_ids(5, seed=5))
    hf_model = tiny_hf_model("qwen3")
    assert (cached(hf_model, layout) - one_pass(hf_model, layout)).abs().max() < TOLERANCE
    joined = join([encode(hf_model, block) for block in layout.blocks], Rope.of(hf_model))
    assert joined.attention == "mixed"


def test_naive_float64_attention_agrees() -> None:
    """A third opinion that shares no code: a Mistral written as loops over tokens, in float64, positions by hand."""
    hf_model = tiny_hf_model("mistral")
    layout = some_layout(2)
    expected = naive_logits(hf_model, layout)
    assert (cached(hf_model, layout).double() - expected).abs().max() < TOLERANCE


def naive_logits(hf_model: Any, layout: Layout) -> Tensor:
    """[tail, vocabulary] in float64. One query token and one head at a time; complex numbers turn the channel pairs."""
    config, weights = hf_model.config, {name: w.double() for name, w in hf_model.state_dict().items()}
    half, group = config.head_dim // 2, config.num_attention_heads // config.num_key_value_heads
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
    positions, mask = layout.position_ids().double(), layout.mask()

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weights[name]

    def turned(x: Tensor, position: Tensor) -> Tensor:
        z = torch.complex(x[:half], x[half:]) * torch.polar(
            torch.ones(half, dtype=torch.float64), position * frequencies
        )
        return torch.cat([z.real, z.imag])

    h = weights["model.embed_tokens.weight"][layout.input_ids()]
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        x = norm(h, prefix + "input_layernorm.weight")
        q, k, v = (x @ weights[f"{prefix}self_attn.{name}_proj.weight"].T for name in "qkv")
        rows = []
        for t in range(len(h)):
            heads = []
            for head in range(config.num_attention_heads):
                own = slice(head * config.head_dim, (head + 1) * config.head_dim)
                shared = slice(head // group * config.head_dim, (head // group + 1) * config.head_dim)
                seen = [s for s in range(len(h)) if mask[t, s]]
                query = turned(q[t, own], positions[t])
                scores = torch.stack([query @ turned(k[s, shared], positions[s]) for s in seen]) / config.head_dim**0.5
                heads.append(scores.softmax(0) @ v[seen, shared])
            rows.append(torch.cat(heads))
        h = h + torch.stack(rows) @ weights[prefix + "self_attn.o_proj.weight"].T
        x = norm(h, prefix + "post_attention_layernorm.weight")
        gate = torch.nn.functional.silu(x @ weights[prefix + "mlp.gate_proj.weight"].T)
        h = h + (gate * (x @ weights[prefix + "mlp.up_proj.weight"].T)) @ weights[prefix + "mlp.down_proj.weight"].T
    return (norm(h, "model.norm.weight") @ weights["lm_head.weight"].T)[slice(*layout.tail_span)]


def test_right_padded_batch_gives_the_caches_of_single_texts() -> None:
    """Rows of a padded batch hold keys of padding: none of them may come along."""
    hf_model = tiny_hf_model("qwen2")
    short, long = document(5, seed=1), document(17, seed=2)
    padded = [*short.ids, *[0] * (len(long) - len(short))]
    mask = torch.ones(2, len(long), dtype=torch.long)
    mask[0, len(short) :] = 0
    with torch.inference_mode():
        output = hf_model.model(torch.tensor([padded, long.ids]), attention_mask=mask, is_causal=False, use_cache=True)
    layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
    for row, block in enumerate([short, long]):
        batched = KVCache.harvest(layers, row, block.ids, block.header_length, "bidirectional")
        single = encode(hf_model, block)
        assert batched.length == len(block)
        assert batched.keys.untyped_storage().nbytes() == batched.keys.nbytes, "a view would keep the whole batch alive"
        assert (batched.keys - single.keys).abs().max() < TOLERANCE
        assert (batched.values - single.values).abs().max() < TOLERANCE


def test_sliding_window_caches_are_refused() -> None:
    """Such a cache says that it holds all tokens, but keeps the last ones only."""
    hf_model = tiny_hf_model("mistral", sliding_window=8)
    with pytest.raises(ModelError, match="sliding window"):
        encode(hf_model, document(20, seed=0))


def test_slice_and_clone_keep_positions_and_the_source() -> None:
    cache = encode(tiny_hf_model("mistral"), document(12, seed=0))
    part = cache.slice(2, 9)
    assert (part.length, part.start, part.end, part.header_length) == (7, 2, 9, 2)
    assert torch.equal(part.keys, cache.keys[:, :, 2:9])
    copy = part.clone()
    assert copy.keys.untyped_storage().nbytes() == copy.keys.nbytes < cache.keys.nbytes
    assert part.nbytes == 2 * part.keys.numel() * 4
    assert cache.slice(6, 9).header_length == 0
    with pytest.raises(ValueError, match="do not lie within"):
        cache.slice(3, 99)


def test_a_sliced_cache_joins_from_where_it_stood() -> None:
    """A part of a document is moved by the distance from its own place, not from zero."""
    hf_model = tiny_hf_model("mistral")
    cache = encode(hf_model, Block(random_ids(12)))
    halves = [cache.slice(0, 5), cache.slice(5, 12)]
    assert (join(halves, Rope.of(hf_model)).keys - cache.keys).abs().max() < 1e-5


def test_joining_leaves_the_parts_untouched_and_takes_packed_ones() -> None:
    hf_model = tiny_hf_model("mistral")
    parts = [encode(hf_model, document(length, seed=length)) for length in (9, 70)]
    before = [part.clone() for part in parts]
    exact = join(parts, Rope.of(hf_model))
    mixed = join([parts[0], parts[1].packed("int8")], Rope.of(hf_model))
    for part, copy in zip(parts, before, strict=True):
        assert torch.equal(part.keys, copy.keys) and torch.equal(part.values, copy.values)
    assert torch.equal(mixed.keys[:, :, :13], exact.keys[:, :, :13])
    difference = (mixed.keys - exact.keys).abs().max()
    assert 0 < difference < 0.02 * exact.keys.abs().max()


def test_what_cannot_be_joined_says_why() -> None:
    hf_model, other = tiny_hf_model("mistral"), tiny_hf_model("mistral", num_hidden_layers=3)
    cache, rope = encode(hf_model, document(4, seed=0)), Rope.of(hf_model)
    with pytest.raises(InputError, match="no KV cache"):
        join([], rope)
    with pytest.raises(ModelError, match="different models"):
        join([cache, encode(other, document(4, seed=1))], rope)
    with pytest.raises(InputError, match="consecutive, colliding"):
        join([cache], rope, positions="sideways")  # type: ignore[arg-type]


def test_layers_joined_together_are_those_joined_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU one launch turns many layers; packed caches are unpacked in the same groups."""
    hf_model = tiny_hf_model("mistral", num_hidden_layers=5)
    caches = [encode(hf_model, document(9 + seed, seed)) for seed in range(3)]
    caches[1] = caches[1].packed("int8")
    rope = Rope.of(hf_model)
    alone = join(caches, rope)
    assert kv_cache.layer_groups(5, 100, torch.device("cpu")) == [slice(layer, layer + 1) for layer in range(5)]
    monkeypatch.setattr(kv_cache, "GPU_JOIN_NUMBERS", 250)
    groups = kv_cache.layer_groups(5, 100, torch.device("cuda"))
    assert groups == [slice(0, 2), slice(2, 4), slice(4, 5)]
    monkeypatch.setattr(kv_cache, "layer_groups", lambda *_: groups)
    together = join(caches, rope)
    assert torch.equal(together.keys, alone.keys) and torch.equal(together.values, alone.values)
