"""Chunking, checkpointing, packing and splitting are details: every way gives the gradient of the whole batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from grit_app.gritlm.embed.attention import base_model
from tests.training.helpers import Workbench, gradients_of, lora, make_config, relative_error
from training.config import ContrastiveConfig, GenerativeConfig, RagConfig, TrainConfig
from training.run.adapters import check_adapters_move, unmoved_adapters
from training.run.kernels import compile_layers
from training.run.optimizer import build_optimizer
from training.step.gradcache import RandomState, cached_backward
from training.step.module import GritModule

FULL, LORA = "full", "lora"


@pytest.fixture(scope="module")
def config_for(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Callable[..., Path]) -> Callable[..., Any]:
    def make(method: str = FULL, family: str = "mistral", **sections: Any) -> TrainConfig:
        if method == LORA:
            sections["adapter"] = lora(dropout=0.0)
        return make_config(tmp_path_factory.mktemp("run"), tiny_model_folder(family), **sections)

    return make


def moved(bench: Workbench) -> None:
    """A few steps away from the start, where every lora_B is zero and hides the gradient of lora_A."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in bench.core.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


def plain_gradient(config: TrainConfig) -> dict[str, torch.Tensor]:
    """One forward for the whole contrastive batch, graph kept."""
    whole = replace(
        config,
        contrastive=replace(config.contrastive, chunk_tokens=10**6, cache_gradients=False, score_rows=10**6),
        generative=replace(config.generative, chunk_tokens=10**6),
        rag=replace(config.rag, chunk_tokens=10**6),
        model=replace(config.model, gradient_checkpointing=False),
    )
    bench = Workbench(whole)
    moved(bench)
    return bench.gradients()


@pytest.mark.parametrize("method", [FULL, LORA])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_cached_gradient_equals_plain_gradient(
    config_for: Callable[..., Any], method: str, checkpointing: bool
) -> None:
    """Any chunk size, with and without activation checkpointing, all three streams and both losses of the layouts."""
    config = config_for(method)
    expected = plain_gradient(config)
    for tokens in (64, 150, 700):
        cut = replace(
            config,
            contrastive=replace(config.contrastive, chunk_tokens=tokens, score_rows=3),
            rag=replace(config.rag, chunk_tokens=2 * tokens),
            model=replace(config.model, gradient_checkpointing=checkpointing),
        )
        bench = Workbench(cut)
        moved(bench)
        found = bench.gradients()
        assert len(bench.loader.load(0).groups["contrastive"].chunks) > 1
        assert relative_error(found, expected) < 1e-5, tokens


@pytest.mark.filterwarnings("ignore")  # of torch itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_compiled_layers_give_the_gradient_of_plain_ones(config_for: Callable[..., Any]) -> None:
    """Bidirectional and causal, padded and not, blocks under their own mask; one code for all lengths."""
    config = config_for(contrastive=ContrastiveConfig(batch_size=8, chunk_tokens=150), rag=RagConfig(batch_size=4))
    expected = Workbench(config).gradients()
    bench = Workbench(config)
    compile_layers(base_model(bench.core.hf_model).layers)
    bench.core.train()
    assert relative_error(bench.gradients(), expected) < 1e-5
    shapes = {chunk.input_ids.shape for chunk in bench.loader.load(0).chunks()}
    kinds = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 2 <= kinds < len(shapes), "a graph a length would never pay"


def test_layout_losses_reach_the_blocks(config_for: Callable[..., Any]) -> None:
    """The comparison above is not of nothing: both losses of cache-aware samples add to the gradient."""
    config = config_for(streams="r", rag=RagConfig(batch_size=8, layouts={"docs_cache": 1.0}))
    whole = Workbench(config).gradients()
    answers = Workbench(replace(config, rag=replace(config.rag, embedding_weight=0.0))).gradients()
    vectors = Workbench(replace(config, rag=replace(config.rag, weight=0.0))).gradients()
    summed = {name: answers[name] + vectors[name] for name in whole}
    assert relative_error(summed, whole) < 1e-5
    assert relative_error(answers, whole) > 1e-2 and relative_error(vectors, whole) > 1e-3


def test_replay_repeats_dropout_bit_for_bit(config_for: Callable[..., Any]) -> None:
    """With dropout on, the learning pass must repeat the first pass; the loss alone would not show that it does not."""
    bench = Workbench(replace(config_for(streams="c"), adapter=lora(dropout=0.3)))
    moved(bench)
    chunk = bench.loader.load(0).groups["contrastive"].chunks[0]
    state = RandomState.now(torch.device("cpu"))
    first = bench.core(chunk)[0]
    other = bench.core(chunk)[0]
    with state.replayed():
        again = bench.core(chunk)[0]
    assert torch.equal(first, again)
    assert float((first - other).detach().abs().max()) > 1e-3, "dropout is off: nothing is proven"


def test_random_state_outside_a_replay_is_untouched() -> None:
    state = RandomState.now(torch.device("cpu"))
    torch.rand(3)
    after = torch.get_rng_state()
    with state.replayed():
        torch.rand(100)
    assert torch.equal(torch.get_rng_state(), after)


def test_dropout_gradient_is_that_of_the_same_masks() -> None:
    """GradCache under dropout equals autograd through the very masks of its first pass."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 4))
    inputs = torch.randn(9, 6).split(4)
    target = torch.randn(9, 4)

    def encode(chunk: torch.Tensor, learns: bool) -> tuple[torch.Tensor, None]:
        return torch.nn.functional.dropout(chunk @ weight, 0.5), None

    def gradient(vectors: torch.Tensor) -> torch.Tensor:
        leaf = vectors.detach().requires_grad_()
        ((leaf @ leaf.T).tanh().sum() + (leaf * target).sum()).backward()
        return leaf.grad

    torch.manual_seed(1)
    cached_backward(inputs, encode, gradient, 9, torch.device("cpu"))
    cached = weight.grad.clone()
    weight.grad = None
    torch.manual_seed(1)
    vectors = torch.cat([encode(chunk, True)[0] for chunk in inputs])
    ((vectors @ vectors.T).tanh().sum() + (vectors * target).sum()).backward()
    torch.testing.assert_close(cached, weight.grad)


@pytest.mark.parametrize("family", ["mistral", "qwen3", "mixtral"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_rows_give_the_gradient_of_padded_ones(
    config_for: Callable[..., Any], family: str, checkpointing: bool
) -> None:
    """All three streams in rows without padding: texts, chats, and layouts whose tails read their blocks.

    A step is a handful of forwards then, and none of them builds a mask.
    """
    config = config_for(family=family, rag=RagConfig(batch_size=8, chunk_tokens=4000, kl_weight=0.5))
    expected = Workbench(config).gradients()
    packed = Workbench(
        replace(
            config,
            run=replace(config.run, rows="packed"),
            contrastive=replace(config.contrastive, chunk_tokens=400),
            generative=replace(config.generative, chunk_tokens=4000),
            model=replace(config.model, gradient_checkpointing=checkpointing),
        )
    )
    found = packed.gradients()
    batch = packed.loader.load(0)
    assert batch.padded_tokens == batch.tokens and len(batch.groups["contrastive"].chunks) > 2
    assert all(chunk.attention_mask is None and chunk.segments for chunk in batch.chunks())
    assert any(part.keys is not None for chunk in batch.chunks() for part in chunk.segments or [])
    assert len(batch.write) == 2 and len(batch.groups["rag"].chunks) == 1
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("attention", ["cccc", "bbcc"])
@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "lasttoken", "cls"])
def test_packed_vectors_are_the_padded_ones(config_for: Callable[..., Any], attention: str, pooling: str) -> None:
    config = config_for(streams="c")
    config = replace(config, model=replace(config.model, attention=attention, pooling=pooling))
    found = []
    for rows in ("padded", "packed"):
        bench = Workbench(replace(config, run=replace(config.run, rows=rows)))
        vectors = {}
        for chunk in bench.loader.load(0).groups["contrastive"].chunks:
            vectors |= dict(zip(chunk.vectors, bench.core(chunk)[0].detach(), strict=True))
        found.append(torch.stack([vectors[number] for number in sorted(vectors)]))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
    if (attention, pooling) != ("cccc", "cls"):  # the first token sees nothing then
        assert float((found[0][0] - found[0][1]).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", ["token", "sample", "mixed"])
def test_generative_loss_does_not_depend_on_micro_batches(config_for: Callable[..., Any], kind: str) -> None:
    """All three normalisations are those of the global batch, however it is cut."""
    reports, gradients = [], []
    for tokens in (16, 150, 4000):
        settings = GenerativeConfig(batch_size=8, loss=kind, group_size=3, chunk_tokens=tokens)  # type: ignore[arg-type]
        bench = Workbench(config_for(streams="g", generative=settings))
        gradients.append(bench.gradients())
        reports.append(bench.report.values["loss_generative"])
    assert max(reports) - min(reports) < 1e-5 * abs(reports[0])
    assert relative_error(gradients[1], gradients[0]) < 1e-5 and relative_error(gradients[2], gradients[0]) < 1e-5


def test_router_loss_does_not_depend_on_micro_batches(config_for: Callable[..., Any]) -> None:
    """A mixture's balance is taken sample by sample, so chunks and packing change neither it nor the gradient."""
    reports, gradients = [], []
    for tokens, rows in ((16, "padded"), (4000, "padded"), (2048, "packed")):
        settings = GenerativeConfig(batch_size=8, chunk_tokens=tokens, router_weight=0.5)
        config = config_for(family="mixtral", streams="g", generative=settings)
        bench = Workbench(replace(config, run=replace(config.run, rows=rows)))
        gradients.append(bench.gradients())
        reports.append(bench.report.values["router_generative"])
    assert reports[0] > 1 and max(reports) - min(reports) < 1e-5
    assert relative_error(gradients[1], gradients[0]) < 1e-5 and relative_error(gradients[2], gradients[0]) < 1e-5
    settings = GenerativeConfig(batch_size=8, chunk_tokens=16, router_weight=0.0)
    without = Workbench(config_for(family="mixtral", streams="g", generative=settings)).gradients()
    assert relative_error(without, gradients[0]) > 1e-3


def test_weights_scale_their_own_stream(config_for: Callable[..., Any]) -> None:
    """The step's gradient is the weighted sum of the streams' gradients."""
    base = config_for(rag=RagConfig(batch_size=8, embedding_weight=0.0))
    parts = {}
    for name in ("contrastive", "generative", "rag"):
        alone = {
            other: replace(getattr(base, other), weight=1.0 if other == name else 0.0)
            for other in ("contrastive", "generative", "rag")
        }
        parts[name] = Workbench(replace(base, **alone)).gradients()
    weighted = replace(
        base,
        contrastive=replace(base.contrastive, weight=0.5),
        generative=replace(base.generative, weight=2.0),
        rag=replace(base.rag, weight=3.0),
    )
    found = Workbench(weighted).gradients()
    expected = {n: 0.5 * parts["contrastive"][n] + 2 * parts["generative"][n] + 3 * parts["rag"][n] for n in found}
    assert relative_error(found, expected) < 1e-5
    assert all(any(float(g.abs().max()) > 1e-3 for g in part.values()) for part in parts.values())


@pytest.mark.parametrize("family", ["mistral", "mixtral", "llama", "qwen3"])
def test_every_adapter_moves(config_for: Callable[..., Any], family: str) -> None:
    """After three steps no lora_B is zero, in the experts of a mixture too; the check notices one that stayed."""
    bench = Workbench(config_for(LORA, family))
    assert len(unmoved_adapters(bench.core)) > 5
    optimizer = build_optimizer(bench.core, bench.config.optimizer)
    for step in range(3):
        bench.gradients(step)
        optimizer.step()
    check_adapters_move(bench.core)
    trained = {name for name, p in bench.core.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    name = next(n for n in trained if "lora_B" in n)
    bench.core.get_parameter(name).data.zero_()
    assert unmoved_adapters(bench.core) == [name]


def test_pooling_behind_adapters_is_of_states_not_of_logits(config_for: Callable[..., Any]) -> None:
    """After peft wrapping `.model` is the language model; vectors must have the hidden width, adapters included."""
    bench = Workbench(config_for(LORA, streams="c"))
    chunk = bench.loader.load(0).groups["contrastive"].chunks[0]
    before = bench.core(chunk)[0]
    assert before.shape[1] == bench.core.config.hidden_size
    moved(bench)
    assert float((bench.core(chunk)[0] - before).detach().abs().max()) > 1e-3


def test_the_base_holds_writing_back(config_for: Callable[..., Any]) -> None:
    """KL to the model before the run: no gradient where nothing has moved, and towards it afterwards.

    Against the definition: the mean over trained tokens of KL(base ‖ now), whatever the chunks.
    """
    config = config_for(streams="g")
    held = replace(config, generative=replace(config.generative, base_kl_weight=2.0))
    assert relative_error(Workbench(held).gradients(), Workbench(config).gradients()) < 1e-5

    def away(core: GritModule) -> None:
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in core.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)

    benches = [Workbench(c, away) for c in (held, config)]
    with_kl, without = (bench.gradients() for bench in benches)
    bench = benches[0]
    bench.core.zero_grad(set_to_none=True)
    base = Workbench(config).core
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for chunk in bench.loader.load(0).write:
        now, before = (
            m.hf_model(input_ids=chunk.input_ids).logits.flatten(0, 1)[chunk.predictors].double().log_softmax(-1)
            for m in (bench.core, base)
        )
        total = total + (before.exp() * (before - now)).sum()
        tokens += len(chunk.labels)
    (2.0 * total / tokens).backward()
    expected = {name: without[name] + gradient for name, gradient in gradients_of(bench.core).items()}
    assert relative_error(with_kl, expected) < 1e-4
    assert relative_error(with_kl, without) > 1e-2


@pytest.mark.parametrize("attention", ["bbcc", "cccc", "bb", "cc"])
@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "lasttoken"])
def test_training_vectors_are_the_served_ones(config_for: Callable[..., Any], attention: str, pooling: str) -> None:
    """For every attention code and pooling: vectors of the training forward = GritLM.encode with the same settings."""
    from grit_app.gritlm import GritLM

    config = config_for(streams="c")
    config = replace(config, model=replace(config.model, attention=attention, pooling=pooling))
    bench = Workbench(config)
    bench.core.eval()
    group = bench.loader.load(0).groups["contrastive"]
    vectors = {}
    for chunk in group.chunks:
        for number, vector in zip(chunk.vectors, bench.core(chunk, with_answers=False)[0], strict=True):
            vectors[number] = vector
    served = GritLM.from_pretrained(config.model.path, dtype="float32", attention=attention, pooling=pooling)
    rows = bench.loader._samples("contrastive", 0)
    for number, (_, index) in enumerate(rows):
        query = bench.loader.datasets["contrastive"][0][index].query
        expected = served.encode([query.text], query.instruction)[0]
        assert abs(vectors[number].detach().numpy() - expected).max() < 1e-5


def test_kl_is_zero_against_itself_and_pulls_towards_the_full_prompt(config_for: Callable[..., Any]) -> None:
    """α · KL adds a gradient for layouts with blocks; for plain causal ones there is no teacher and no difference."""
    blocks = config_for(streams="r", rag=RagConfig(batch_size=8, layouts={"docs_cache": 1.0}, kl_weight=0.5))
    without = replace(blocks, rag=replace(blocks.rag, kl_weight=0.0))
    assert relative_error(Workbench(blocks).gradients(), Workbench(without).gradients()) > 1e-3
    exact = replace(blocks, rag=replace(blocks.rag, layouts={"prefix_cache": 1.0}, embedding_weight=0.0))
    exact_without = replace(exact, rag=replace(exact.rag, kl_weight=0.0))
    # prefix_cache gives the numbers of the full prompt, so the KL is 0 at its minimum and has no gradient.
    assert relative_error(Workbench(exact).gradients(), Workbench(exact_without).gradients()) < 1e-4


def test_cached_batch_of_one_chunk_is_run_once(config_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything fits into one chunk GradCache would only cost a forward."""
    monkeypatch.setattr("training.data.collate.PADDING_TOKENS", 10**6)  # else a chunk ends before its padding grows
    config = config_for(streams="c", contrastive=ContrastiveConfig(batch_size=8, chunk_tokens=10**6))
    bench = Workbench(config)
    calls = []
    bench.core.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    bench.gradients()
    assert calls == [True]
