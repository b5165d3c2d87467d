"""One decoded token at a fixed shape, which a GPU replays as one captured graph.

A token takes about a thousand small kernels, and Python launches them more slowly than a GPU runs them. A graph
launches all at once, but only ever repeats itself: the same shapes at the same addresses. So a running answer's keys
and values move into buffers that stay, the place of the new row is a number on the device, and attention reads a
bucket of rows under a mask:

    rows read    [ cached … prompt … answer | new | masked … ]  up to the next bucket
    one graph a bucket, captured when an answer first gets there, kept for all answers

The numbers are those of the plain path; on a CPU the same step runs uncaptured.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grit_app.gritlm.cache.rope import LENGTH_DEPENDENT
from grit_app.gritlm.memory import register_spare
from grit_app.gritlm.write.runtime import Decoder, Workspace

log = logging.getLogger(__name__)

LEAST_ROWS: Final = 256
SLOTS: Final = 4
"""Answers that decode by graphs at once; further ones take the plain path."""

FREE_SHARE: Final = 0.5
"""Of the card's free memory a new slot may take so much."""


def bucket(length: int) -> int:
    """Rows read for `length` tokens: at most a fourth more, so that few graphs serve all lengths."""
    step = max(LEAST_ROWS, 1 << max(0, length.bit_length() - 3))
    return -(-length // step) * step


class FixedStep:
    """Buffers for one running answer, and the graphs over them.

    step.hold(space)                   # the rows that were read so far
    logits = step.run(token_id)        # float32 [vocabulary], on the device; overwritten by the next call
    step.write_back(space)             # the rows that came since
    """

    def __init__(self, decoder: Decoder, capacity: int) -> None:
        device = decoder.layers[0].device
        shape = (len(decoder.layers), decoder.kv_heads, bucket(capacity), decoder.head_size)
        # Zeros: what a mask hides is still multiplied, and stray memory may hold nan.
        self._keys = torch.zeros(shape, dtype=decoder.dtype, device=device)
        self._values = torch.zeros_like(self._keys)
        self._decoder = decoder
        self._token, self._row, self._position = torch.zeros((3, 1), dtype=torch.long, device=device).unbind()
        self._columns = torch.arange(shape[2], device=device)
        self._logits = torch.zeros(0, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        self.length = self._held = 0

    @property
    def capacity(self) -> int:
        return self._keys.shape[2]

    @torch.inference_mode()
    def hold(self, space: Workspace) -> None:
        """Copies the workspace's rows into the buffers."""
        for index, (keys, values) in enumerate(zip(space.keys, space.values, strict=True)):
            self._keys[index, :, : space.length].copy_(keys[:, : space.length])
            self._values[index, :, : space.length].copy_(values[:, : space.length])
        self.length = self._held = space.length
        self._count(space.position)

    @torch.inference_mode()
    def write_back(self, space: Workspace) -> None:
        """Adds the rows that came since `hold` to the workspace they were taken from."""
        new = self.length - self._held
        space.make_room(new)
        for index, (keys, values) in enumerate(zip(space.keys, space.values, strict=True)):
            keys[:, self._held : self.length].copy_(self._keys[index, :, self._held : self.length])
            values[:, self._held : self.length].copy_(self._values[index, :, self._held : self.length])
        space.length += new
        space.position += new
        self._held = self.length

    @torch.inference_mode()
    def run(self, token_id: int) -> Tensor:
        """Logits of what follows `token_id`, which is added to the rows. The caller holds the model's lock."""
        rows = bucket(self.length + 1)
        self._token.fill_(token_id)  # a number in the launch: no copy from the host
        if self._keys.device.type == "cuda" and rows not in self._graphs:
            self._graphs[rows] = self._capture(rows)
        graph = self._graphs.get(rows)
        if graph is None:
            self._compute(rows)
        else:
            graph.replay()
        self.length += 1
        return self._logits

    def _count(self, position: int) -> None:
        self._row.fill_(self.length)
        self._position.fill_(position)

    def _capture(self, rows: int) -> torch.cuda.CUDAGraph | None:
        """The graph for a bucket; None where the model's kernels cannot be captured, which is said once."""
        position = self._position.clone()
        try:
            side = torch.cuda.Stream(self._keys.device)
            side.wait_stream(torch.cuda.current_stream(self._keys.device))
            with torch.cuda.stream(side):
                self._compute(rows)  # libraries set themselves up at their first call, which no graph may hold
            torch.cuda.current_stream(self._keys.device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads may allocate meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._compute(rows)
        except RuntimeError as error:
            log.warning("Decoding runs without captured graphs: %s", str(error).splitlines()[0])
            graph = None
        self._row.fill_(self.length)
        self._position.copy_(position)
        return graph

    def _compute(self, rows: int) -> None:
        decoder = self._decoder
        h: Tensor = decoder.embed(self._token[None])  # [1, 1, hidden]
        cos, sin = decoder.angles(h, self._position)
        hidden_rows = torch.zeros(rows, dtype=h.dtype, device=h.device)
        hidden_rows.masked_fill_(self._columns[:rows] > self._row, float("-inf"))
        for index, layer in enumerate(decoder.layers):
            mixed = self._attend(layer, index, layer.input_norm(h), cos, sin, hidden_rows)
            h = h + layer.o_proj(mixed)
            h = h + layer.mlp(layer.mlp_norm(h))
        logits = decoder.head(decoder.norm(h))[0, 0].float()
        if self._logits.shape != logits.shape:
            self._logits = torch.empty_like(logits)
        self._logits.copy_(logits)
        self._row += 1
        self._position += 1

    def _attend(self, layer: Any, index: int, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Attention output [1, 1, heads · d] of the one new token over the first rows of the buffers."""
        decoder, rows = self._decoder, len(mask)
        q, k, v = decoder.heads_of(layer, x)  # [heads, 1, d], [kv_heads, 1, d] twice
        half = decoder.head_size // 2
        q = torch.addcmul(q * cos, q.roll(half, -1), sin)
        self._keys[index].index_copy_(1, self._row, torch.addcmul(k * cos, k.roll(half, -1), sin))
        self._values[index].index_copy_(1, self._row, v)
        keys, values = self._keys[index, :, :rows], self._values[index, :, :rows]
        grouped = q.reshape(decoder.kv_heads, -1, decoder.head_size)
        scores = torch.baddbmm(
            mask.expand(*grouped.shape[:2], rows), grouped, keys.transpose(1, 2), alpha=layer.scaling
        )
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
        return torch.bmm(weights, values).reshape(1, 1, -1)


class FixedSteps:
    """The slots of one model."""

    def __init__(self) -> None:
        self._free: list[FixedStep] = []
        self._made = 0
        self._lock = threading.Lock()
        register_spare(self)

    def take(self, decoder: Decoder, capacity: int) -> FixedStep | None:
        """A slot with room for `capacity` tokens; None if all are in use or the card has no room for another."""
        with self._lock:
            for step in sorted(self._free, key=lambda step: step.capacity):
                if step.capacity >= capacity:
                    self._free.remove(step)
                    return step
            if self._free:  # too small ones make way
                self._free.pop()
                self._made -= 1
            if self._made >= SLOTS or not has_room(decoder, capacity):
                return None
            self._made += 1
        return FixedStep(decoder, capacity)

    def give(self, step: FixedStep) -> None:
        """Lets others use a slot."""
        with self._lock:
            self._free.append(step)

    def clear(self) -> None:
        """Frees the memory of unused slots."""
        with self._lock:
            self._made -= len(self._free)
            self._free.clear()


def has_room(decoder: Decoder, capacity: int) -> bool:
    """Whether a slot fits into the free memory with much to spare."""
    device = decoder.layers[0].device
    if device.type != "cuda":
        return True
    numbers = 2 * len(decoder.layers) * decoder.kv_heads * bucket(capacity) * decoder.head_size
    return numbers * decoder.dtype.itemsize <= FREE_SHARE * torch.cuda.mem_get_info(device)[0]


def can_be_captured(decoder: Decoder, quantization: str) -> bool:
    """Whether a token is the same launches each time.

    Not with layers on several devices, a router that picks experts on the host, 8-bit weights (their outliers are
    looked for on the host), or a rotation that depends on the length.
    """
    devices = {layer.device for layer in decoder.layers}
    return (
        len(devices) == 1
        and next(iter(devices)).type == "cuda"
        and quantization != "8bit"
        and decoder.model_type != "mixtral"
        and getattr(decoder.rotary, "rope_type", "default") not in LENGTH_DEPENDENT
    )


_POOLS: weakref.WeakKeyDictionary[PreTrainedModel, FixedSteps] = weakref.WeakKeyDictionary()


def steps_of(hf_model: PreTrainedModel) -> FixedSteps:
    """The slots of a model; they go with it."""
    return _POOLS.setdefault(hf_model, FixedSteps())


class Steps:
    """One answer's reads: single tokens through a slot where the model can be captured, all others the plain way.

    steps = Steps(decoder, hf_model, quantization, new_tokens)
    logits = steps.logits(ids, space)        # as decoder.logits
    steps.close(space)                       # the workspace holds all rows again
    """

    def __init__(self, decoder: Decoder, hf_model: PreTrainedModel, quantization: str, new_tokens: int) -> None:
        self._decoder = decoder
        self._pool = steps_of(hf_model) if can_be_captured(decoder, quantization) else None
        self._new_tokens = new_tokens
        self._step: FixedStep | None = None
        self._has_prompt = False
        self._is_ahead = False  # rows of the slot that the workspace lacks

    def logits(self, ids: Sequence[int], space: Workspace, cancel: threading.Event | None = None) -> Tensor:
        """Float32 [vocabulary], until the next call: what follows `ids`. The caller holds the model's lock."""
        step = self._slot(space) if self._has_prompt and len(ids) == 1 else None
        self._has_prompt = True
        if step is None:
            self._settle(space)
            return self._decoder.logits(ids, space, cancel)
        if not self._is_ahead:
            step.hold(space)
            self._is_ahead = True
        return step.run(ids[0])

    def close(self, space: Workspace | None) -> None:
        """Gives the slot back, its rows to `space` if there is one."""
        if space is not None:
            self._settle(space)
        if self._step is not None and self._pool is not None:
            self._pool.give(self._step)
        self._step, self._is_ahead = None, False

    def _slot(self, space: Workspace) -> FixedStep | None:
        if self._step is not None and self._step.length >= self._step.capacity:
            self.close(space)
        if self._step is None and self._pool is not None:
            self._step = self._pool.take(self._decoder, space.length + self._new_tokens)
            if self._step is None:  # once without, always without: no moving to and fro
                self._pool = None
        return self._step

    def _settle(self, space: Workspace) -> None:
        if self._step is not None and self._is_ahead:
            self._step.write_back(space)
            self._is_ahead = False
