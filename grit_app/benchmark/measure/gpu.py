"""What only a GPU can show, in at most ten minutes; `--tiny` rehearses it on a CPU in seconds.

    python -m grit_app.benchmark gpu --shape mistral-7b --json gpu.json
    python -m grit_app.benchmark gpu --tiny --json rehearsal.json

Parts, the most telling first. Each is measured at lengths that differ from run to run, with what the first use of a
length costs apart; one that fails is recorded with its error, and the next one runs.

- attention   one call at a length seen before, and at a new one
- decode      tokens a second over contexts, by captured graphs and plainly, the same tokens, beside the floor
- join        cached passages to the first logits, from the card's memory and from the machine's, beside full prefill
- encode      tokens a second
- launches    operations that are launches on a card, copies, and questions that wait for it, of one decoded token and
              of one join, as a card does them and plainly, counted on any device; beside them what the profiler saw

floor of a token = (bytes of weights + bytes of its cache) / bytes a second of a copy on the card
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import _disable_current_modes

from grit_app.benchmark import environment
from grit_app.benchmark.inputs.texts import TextMaker
from grit_app.benchmark.launches import Launches
from grit_app.benchmark.measure.floors import ModelSize, copy_rate
from grit_app.benchmark.options import load_model, model_folder, model_parser, parse, teller, write_result
from grit_app.benchmark.timing import summarize, synchronize
from grit_app.gritlm import GritLM, Sampling, join
from grit_app.gritlm.cache import kv_cache
from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.write import fixed_step

Record = dict[str, Any]

PARTS: Final = ("attention", "decode", "join", "encode", "launches")
CONTEXTS: Final = (64, 4096, 8192)
TINY_CONTEXTS: Final = (64, 200)
PASSAGES: Final = 4
STRIDE: Final = 7
"""Lengths of repeats differ by this: a benchmark that repeats one length hides what new ones cost."""


@dataclass(frozen=True)
class Setting:
    """What all parts share."""

    model: GritLM
    contexts: Sequence[int]
    repeats: int
    new_tokens: int
    seed: int

    def ids(self, count: int, run: int) -> list[int]:
        """Random tokens of the vocabulary, other ones for each run."""
        generator = torch.Generator().manual_seed(self.seed * 1000 + run)
        vocabulary = int(self.model.hf_model.config.vocab_size)
        return torch.randint(3, vocabulary, (count,), generator=generator).tolist()

    def seconds(self, action: Callable[[], Any]) -> float:
        synchronize(self.model.device)
        start = time.perf_counter()
        action()
        synchronize(self.model.device)
        return time.perf_counter() - start


def attention(setting: Setting) -> Iterator[Record]:
    """One call of the kernel that torch takes, for one new token, a prompt and a batch of texts."""
    size, model = ModelSize.of(setting.model), setting.model
    for context in setting.contexts:
        for kind in ("token", "prompt"):

            def call(length: int, kind: str = kind) -> float:
                rows = 1 if kind == "token" else length
                shape = (1, size.heads, rows, size.head_size)
                q = torch.randn(shape, device=model.device, dtype=model.dtype)
                k = torch.randn(1, size.kv_heads, length, size.head_size, device=model.device, dtype=model.dtype)
                return 1e3 * setting.seconds(
                    lambda: scaled_dot_product_attention(q, k, k, is_causal=rows > 1, enable_gqa=True)
                )

            call(context)
            new = [call(context + STRIDE * (run + 1)) for run in range(setting.repeats)]
            seen = [call(context + STRIDE * (run + 1)) for run in range(setting.repeats)]
            yield {"what": kind, "context": context, "new_length_ms": summarize(new), "seen_length_ms": summarize(seen)}


def decode(setting: Setting) -> Iterator[Record]:
    """Greedy answers over prompts of each length. The floor: weights and cache pass the memory once a token.

    The memory's rate is read beside every answer, and the best reading counts: other programs come and go, and one
    reading taken while the machine was busy would be a floor that answers fall through.
    """
    size, device = ModelSize.of(setting.model), setting.model.device
    for context in setting.contexts:
        sides: dict[str, list[tuple[float, list[int]]]] = {"graphs": [], "plain": []}
        first: dict[str, float] = {}
        bytes_per_s = 0.0
        for run in range(setting.repeats + 1):
            for side, taken in sides.items():
                bytes_per_s = max(bytes_per_s, copy_rate(device, device))
                speed, ids = _answer(setting, context + STRIDE * run, run, side)
                if run:
                    taken.append((speed, ids))
                else:
                    first[side] = speed
        cache_bytes = context * 2 * size.layers * size.kv_heads * size.head_size * setting.model.dtype.itemsize
        floor_s = (size.weight_bytes + cache_bytes) / bytes_per_s
        fastest = statistics.median(speed for speed, _ in sides["graphs"])
        yield {
            "context": context,
            "tokens_per_s": {side: round(statistics.median(s for s, _ in taken), 2) for side, taken in sides.items()},
            "first_answer_tokens_per_s": {side: round(speed, 2) for side, speed in first.items()},
            "same_tokens": [ids for _, ids in sides["graphs"]] == [ids for _, ids in sides["plain"]],
            "floor_tokens_per_s": round(1 / floor_s, 2),
            "share_of_floor": round(fastest * floor_s, 3),
        }


def _answer(setting: Setting, context: int, run: int, side: str) -> tuple[float, list[int]]:
    with _side(side):
        sampling = Sampling(max_new_tokens=setting.new_tokens)
        stream = setting.model.stream_ids(setting.ids(context, run), sampling=sampling, beyond_context=True)
        stream.read_all()
    return stream.stats.tokens_per_s, list(stream.token_ids)


def joining(setting: Setting) -> Iterator[Record]:
    """Passages cached alone, joined, and a tail of 48 tokens on top, beside reading everything."""
    for context in setting.contexts:
        full: list[float] = []
        hot: list[float] = []
        warm: list[float] = []
        for run in range(setting.repeats + 1):
            length = max(16, (context + STRIDE * run) // PASSAGES)
            caches = [setting.model.causal_cache(setting.ids(length, 10 * run + part)) for part in range(PASSAGES)]
            host = [_on_host(cache) for cache in caches]
            tail = setting.ids(48, 900 + run)
            prompt = [*setting.ids(length * PASSAGES, run), *tail]
            times = (
                setting.seconds(partial(_first_token, setting, prompt, None)),
                setting.seconds(partial(_first_token, setting, tail, caches)),
                setting.seconds(partial(_first_token, setting, tail, host)),
            )
            if run:  # the first one pays for memory and libraries
                for taken, seconds in zip((full, hot, warm), times, strict=True):
                    taken.append(1e3 * seconds)
        yield {
            "context": context,
            "full_prefill_ms": summarize(full),
            "joined_hot_ms": summarize(hot),
            "joined_from_ram_ms": summarize(warm),
            "speed_up_from_ram": round(statistics.median(full) / statistics.median(warm), 2),
        }


def _on_host(cache: KVCache) -> KVCache:
    return replace(cache, keys=cache.keys.cpu(), values=cache.values.cpu())


def _first_token(setting: Setting, tail: list[int], caches: list[KVCache] | None) -> None:
    cache = join(caches, setting.model.rope) if caches else None
    setting.model.stream_ids(tail, cache, Sampling(max_new_tokens=1), beyond_context=True).read_all()


def encode(setting: Setting) -> Iterator[Record]:
    """Texts of log-normal lengths, other ones in each run."""
    maker = TextMaker(setting.model.prompts, setting.model.tokenizer.get_vocab(), setting.seed)
    speeds, texts_a_run = [], 16 if setting.model.device.type == "cpu" else 512
    for run in range(setting.repeats + 1):
        texts = [maker.text(40 + (STRIDE * (run + index)) % 160) for index in range(texts_a_run)]
        tokens = sum(setting.model.prompts.count(text) for text in texts)
        seconds = setting.seconds(partial(setting.model.encode, texts))
        speeds.append(tokens / seconds)
    yield {
        "texts": texts_a_run,
        "tokens_per_s": round(statistics.median(speeds[1:]), 1),
        "first_run_tokens_per_s": round(speeds[0], 1),
    }


def launches(setting: Setting) -> Iterator[Record]:
    """Counts for one token more and for one join, both plainly (a join layer by layer) and as a card does them.

    A captured graph is one launch more, which the counting does not see.
    """
    model = setting.model
    for what, side in (("token, plainly", "plain"), ("token", "graphs")):
        with _side(side), _as_on_a_card(model.device) if side == "graphs" else nullcontext():
            stream = model.stream_ids(setting.ids(64, 0), sampling=Sampling(max_new_tokens=64))
            for _ in range(4):
                next(stream, None)
            # A piece of text can be several tokens.
            yield {"what": what} | _counted(setting, partial(next, stream, None), partial(_length, stream))
            stream.close()
    caches = [model.causal_cache(setting.ids(64, part)) for part in range(PASSAGES)]
    for what, device in (("join, plainly", torch.device("cpu")), ("join", torch.device("cuda"))):
        runs = iter(range(9))
        with _layers_as_on(device):
            yield {"what": what} | _counted(setting, lambda: join(caches, model.rope), partial(next, runs))


def _length(stream: Any) -> int:
    return len(stream.token_ids)


def _counted(setting: Setting, action: Callable[[], Any], done: Callable[[], int]) -> Record:
    """`launches`, `copies` and `questions` a unit that is `done`, and the profiler's counts of another run."""
    before = done()
    with Launches() as counted:
        action()
    units = max(1, done() - before)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if setting.model.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    # acc_events: torch 2.11 warns of what it forgets between cycles, though here is one.
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        action()
        synchronize(setting.model.device)
    events = profile.key_averages()
    counts = {e.key: e.count for e in events if any(w in e.key for w in ("Launch", "Memcpy", "Synchronize"))}
    return {
        "launches": counted.total / units,
        "copies": counted.copies / units,
        "questions": counted.asked / units,
        "profiler": counts,
    }


@contextmanager
def _side(side: str) -> Iterator[None]:
    """With `plain` no step is captured as a graph."""
    stock = fixed_step.can_be_captured
    if side == "plain":
        fixed_step.can_be_captured = lambda *_: False
    try:
        yield
    finally:
        fixed_step.can_be_captured = stock


@contextmanager
def _as_on_a_card(device: torch.device) -> Iterator[None]:
    """On a CPU: fixed steps, whose launches are not counted, as those within a captured graph are not."""
    captured, compute = fixed_step.can_be_captured, fixed_step.FixedStep._compute

    def uncounted(step: fixed_step.FixedStep, rows: int) -> None:
        with _disable_current_modes():
            compute(step, rows)

    if device.type == "cpu":
        fixed_step.can_be_captured = lambda *_: True
        fixed_step.FixedStep._compute = uncounted  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        fixed_step.can_be_captured = captured
        fixed_step.FixedStep._compute = compute  # type: ignore[method-assign]


@contextmanager
def _layers_as_on(place: torch.device) -> Iterator[None]:
    """Joins take as many layers at once as they do on a kind of device."""
    stock = kv_cache.layer_groups

    def there(layers: int, numbers_a_layer: int, device: torch.device) -> list[slice]:
        return stock(layers, numbers_a_layer, device=place)

    kv_cache.layer_groups = there
    try:
        yield
    finally:
        kv_cache.layer_groups = stock


STEPS: Final[dict[str, Callable[[Setting], Iterator[Record]]]] = {
    "attention": attention,
    "decode": decode,
    "join": joining,
    "encode": encode,
    "launches": launches,
}


def measure(setting: Setting, parts: Sequence[str], seconds: float, tell: Callable[[str], None]) -> list[Record]:
    """Records of the parts until the time is over; a part that fails leaves one with its error."""
    records: list[Record] = []
    start = time.monotonic()
    for part in parts:
        if time.monotonic() - start > seconds:
            records.append({"part": part, "left_out": f"{seconds:.0f} s were over"})
            continue
        with _recorded(part, records):
            for record in STEPS[part](setting):
                records.append({"part": part, **record})
                tell(f"{time.monotonic() - start:6.1f} s  {part}: {record}")
                if time.monotonic() - start > seconds:
                    break
    return records


@contextmanager
def _recorded(part: str, records: list[Record]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the next part may still be measured on a machine that is lent for minutes
        records.append({"part": part, "error": f"{type(error).__name__}: {str(error)[:300]}"})


def main(argv: Sequence[str]) -> int:
    """The command; see the head of this file."""
    parser = model_parser("gpu", "What only a GPU can show.")
    parser.add_argument("--tiny", action="store_true", help="A rehearsal: the shape mini-36m at short lengths.")
    parser.add_argument("--parts", type=list[str], default=list(PARTS), help=f"Of {', '.join(PARTS)}.")
    parser.add_argument("--seconds", type=float, default=480.0, help="No part begins after this time.")
    parser.add_argument("--repeats", type=int, default=5, help="Runs of each measurement, after one that is apart.")
    options = parse(parser, argv)
    if options.tiny:
        options.shape, options.repeats = options.shape or "mini-36m", min(options.repeats, 2)
    elif not options.model and not options.shape:
        options.shape = "mistral-7b"
    tell = teller()
    with model_folder(options) as folder:
        model = load_model(options, folder)
        facts = environment.describe(model)
        contexts = TINY_CONTEXTS if options.tiny else CONTEXTS
        setting = Setting(model, contexts, options.repeats, 8 if options.tiny else 64, options.seed)
        records = measure(setting, options.parts, options.seconds, tell)
    write_result({"environment": facts | {"tiny": options.tiny}, "records": records}, options.json)
    return 0 if not any("error" in record for record in records) else 2
