"""The forward pass of generation: prompts, tails over caches, and single tokens.

It calls the stock model's own submodules (embedding, norms, projections, MLP or experts, LM head), layer by layer, and
replaces only what stands between them, because that is where time goes when a cached prompt leaves little to compute:

- keys and values live in one buffer that is large enough from the beginning; new rows are written in place, never
  concatenated, and rotated keys are written straight into it;
- the query heads that share a key head are attended together: keys are never repeated (grouped_attention.py);
- the LM head sees only the positions that are asked for.

Attention here is causal by construction: nothing is read from, or written to, the shared model configuration.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grit_app.gritlm.cache.buffers import empty_buffer
from grit_app.gritlm.cache.kv_cache import KVCache, Room
from grit_app.gritlm.errors import Cancelled, InputError, ModelError
from grit_app.gritlm.write.grouped_attention import Attend, attention_plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROWTH_TOKENS = 256
"""Rows added at least when an answer outgrows its workspace."""

FAMILIES = ("mistral", "mixtral", "llama", "qwen2", "qwen3")


class Workspace:
    """Keys and values of one running sequence, with room for all tokens that may still come.

    Opened over a cache whose own room is free, it writes behind the cached rows and copies nothing; otherwise it copies
    the cached rows once. The cache itself never changes. `close` gives the room back.
    """

    def __init__(
        self, keys: list[Tensor], values: list[Tensor], length: int, position: int, room: Room | None = None
    ) -> None:
        self.keys = keys  # for each layer [kv_heads, capacity, d]
        self.values = values
        self.length = length
        self.position = position
        """Position id of the next token: differs from `length` over a cache that does not start at 0."""
        self._room = room

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[1]

    def close(self) -> None:
        """Gives a borrowed room back. The workspace must not be used afterwards."""
        room, self._room = self._room, None
        if room is not None:
            room.release()

    def make_room(self, new_tokens: int) -> None:
        """Moves to larger buffers unless there is room for `new_tokens` more; a borrowed room is given back.

        A layer at a time, so that on a GPU no more than one layer is held twice.
        """
        if self.length + new_tokens <= self.capacity:
            return
        capacity = self.length + new_tokens + max(GROWTH_TOKENS, self.length // 4)
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = empty_buffer((old.shape[0], capacity, old.shape[2]), old.dtype, old.device)
                new[:, : self.length].copy_(old[:, : self.length])
                buffers[layer] = new
        self.close()

    def crop(self, length: int) -> None:
        """Forgets all tokens after the first `length`. Only for sequences on consecutive positions."""
        self.position -= self.length - length
        self.length = length

    def append(self, layer: int, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Writes `values` [kv_heads, t, d] behind the rows of one layer.

        Returns the rows for the new keys, to be filled in place, and all keys and values so far, new rows included.
        """
        stop = self.length + values.shape[1]
        self.values[layer][:, self.length : stop] = values
        keys = self.keys[layer][:, :stop]
        return keys[:, self.length :], keys, self.values[layer][:, :stop]


@dataclass(frozen=True)
class _Layer:
    """The stock submodules of one decoder layer, looked up once."""

    device: torch.device
    input_norm: nn.Module
    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    o_proj: nn.Module
    q_norm: nn.Module | None
    k_norm: nn.Module | None
    mlp_norm: nn.Module
    mlp: nn.Module
    scaling: float

    @classmethod
    def of(cls, layer: Any) -> _Layer:
        attention = layer.self_attn
        has_norms = attention.config.model_type == "qwen3"  # on each head, before the rotation
        return cls(
            device=next(layer.input_layernorm.parameters()).device,
            input_norm=layer.input_layernorm,
            q_proj=attention.q_proj,
            k_proj=attention.k_proj,
            v_proj=attention.v_proj,
            o_proj=attention.o_proj,
            q_norm=attention.q_norm if has_norms else None,
            k_norm=attention.k_norm if has_norms else None,
            mlp_norm=layer.post_attention_layernorm,
            mlp=layer.mlp,
            scaling=float(attention.scaling),
        )


@dataclass(frozen=True)
class _Part:
    """One sequence's new tokens in a forward: rows `start` … `stop` − 1, and how they attend to its workspace."""

    space: Workspace
    start: int
    stop: int
    attend: Attend


@dataclass(frozen=True)
class _Plan:
    """What the layers of one device share in a forward: cosines and signed sines [t, d], and the sequences."""

    cos: Tensor
    sin: Tensor
    parts: Sequence[_Part]


class Decoder:
    """Runs tokens through `hf_model` on top of a `Workspace`. Cheap to make; holds no state of its own.

        decoder = Decoder(hf_model)
        space = decoder.workspace(cache, new_tokens=len(tail) + 64)
        logits = decoder.logits(tail, space)          # [vocabulary], of the last token

    Raises ModelError for a model family whose layers are not known here, or with a sliding window.
    """

    def __init__(self, hf_model: PreTrainedModel, between_layers: Callable[[], None] | None = None) -> None:
        """`between_layers` is called before each layer (`Scheduler.breathe`)."""
        config: Any = hf_model.config
        if config.model_type not in FAMILIES:
            raise ModelError(
                f"Models of the kind {config.model_type!r} cannot generate here. Known kinds: {', '.join(FAMILIES)}."
            )
        if getattr(config, "sliding_window", None) is not None:
            raise ModelError(
                f"The model attends to a window of {config.sliding_window} tokens; KV caches cannot follow that."
                " Load it with sliding_window off."
            )
        trunk: Any = hf_model.get_decoder()
        self.embed: Any = trunk.embed_tokens
        self.rotary: nn.Module = trunk.rotary_emb
        self.norm: Any = trunk.norm
        self.layers = [_Layer.of(layer) for layer in trunk.layers]
        self.head: Any = hf_model.get_output_embeddings()
        self.head_size: int = trunk.layers[0].self_attn.head_dim
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.dtype: torch.dtype = self.norm.weight.dtype
        self._between_layers = between_layers
        self.model_type = str(config.model_type)

    def workspace(self, cache: KVCache | None, new_tokens: int) -> Workspace:
        """Room for the cached tokens and `new_tokens` more. Raises ModelError for a cache of another model."""
        if cache is None:
            return self._allocate(new_tokens, length=0, position=0)
        if cache.shape != (len(self.layers), self.kv_heads, self.head_size) or cache.dtype != self.dtype:
            raise ModelError(
                "This KV cache was made by a different model (or in a different precision). Encode the text again."
            )
        capacity = cache.length + new_tokens
        on_one_device = all(layer.device == cache.keys.device for layer in self.layers)
        if cache.room and cache.room.capacity >= capacity and on_one_device and cache.room.claim():
            return Workspace(list(cache.room.keys), list(cache.room.values), cache.length, cache.end, cache.room)
        space = self._allocate(capacity, cache.length, cache.end)
        for index, layer in enumerate(self.layers):
            keys, values = cache.layer(index, layer.device)
            space.keys[index][:, : cache.length] = keys
            space.values[index][:, : cache.length] = values
        return space

    def _allocate(self, capacity: int, length: int, position: int) -> Workspace:
        def rows() -> list[Tensor]:
            shape = (self.kv_heads, capacity, self.head_size)
            if all(layer.device.type == "cpu" for layer in self.layers):  # one buffer, for its huge pages
                return list(empty_buffer((len(self.layers), *shape), self.dtype, self.layers[0].device))
            return [empty_buffer(shape, self.dtype, layer.device) for layer in self.layers]

        return Workspace(rows(), rows(), length, position)

    def logits(self, ids: Sequence[int], space: Workspace, cancel: threading.Event | None = None) -> Tensor:
        """Float32 [vocabulary] on the CPU: what follows `ids`, which are added to the workspace."""
        hidden = self.hidden(ids, space, cancel)
        return self.project(hidden[:, -1])[0]

    @torch.inference_mode()
    def project(self, hidden: Tensor) -> Tensor:
        """Float32 logits [rows, vocabulary] on the CPU, of final hidden states [rows, hidden]."""
        logits: Tensor = self.head(hidden.to(self.head.weight.device))
        return logits.to(device="cpu", dtype=torch.float32)

    @torch.inference_mode()
    def hidden(
        self,
        ids: Sequence[int],
        space: Workspace,
        cancel: threading.Event | None = None,
        tree: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Final hidden states [1, t, hidden] of `ids`, which attend causally to the workspace and are added to it.

        tree   (depths [t], may_attend [t, t] bool): the ids are not a sequence but the nodes of a tree, at
               `space.position` + depth, each attending to its ancestors; nothing is added to the workspace

        Raises Cancelled between two layers once `cancel` is set; the workspace then is as before.
        """
        return self._forward([(ids, space)], cancel, tree)

    @torch.inference_mode()
    def hidden_together(
        self, parts: Sequence[tuple[Sequence[int], Workspace]], cancel: threading.Event | None = None
    ) -> list[Tensor]:
        """For each part the final hidden states [t, hidden] of its ids, as `hidden` gives them for the part alone.

        One forward for all: weights are read once, and each part attends to its own workspace, whatever their lengths.
        Raises Cancelled between two layers once `cancel` is set; the workspaces then are as before.
        """
        states = self._forward(parts, cancel)[0]
        return list(states.split([len(ids) for ids, _ in parts]))

    def _forward(
        self,
        parts: Sequence[tuple[Sequence[int], Workspace]],
        cancel: threading.Event | None,
        tree: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Final hidden states [1, t, hidden], the parts' tokens one behind the other."""
        for ids, space in parts:
            if not ids or space.length + len(ids) > space.capacity:
                raise InputError(
                    f"{len(ids)} tokens do not fit into a workspace with {space.capacity - space.length} free rows."
                )
        all_ids = [token for ids, _ in parts for token in ids]
        h: Tensor = self.embed(torch.tensor([all_ids], device=self.embed.weight.device))  # [1, t, hidden]
        plan: _Plan | None = None
        for index, layer in enumerate(self.layers):
            if cancel is not None and cancel.is_set():
                raise Cancelled("Stopped while the prompt was being read.")
            if self._between_layers is not None:
                self._between_layers()
            if plan is None or layer.device != h.device:  # the layers of a large model may lie on several devices
                h = h.to(layer.device)
                plan = self._plan(h, parts, tree)
            h = h + layer.o_proj(self._attention(layer, index, layer.input_norm(h), plan))
            h = h + layer.mlp(layer.mlp_norm(h))
        if tree is None:
            for ids, space in parts:
                space.length += len(ids)
                space.position += len(ids)
        result: Tensor = self.norm(h.to(self.norm.weight.device))
        return result

    def _plan(
        self, h: Tensor, parts: Sequence[tuple[Sequence[int], Workspace]], tree: tuple[Tensor, Tensor] | None
    ) -> _Plan:
        """What all layers of one device share."""
        depths, may_attend = tree or (None, None)
        group = self.heads // self.kv_heads
        places, planned, start = [], [], 0
        for ids, space in parts:
            count = len(ids)
            places.append((torch.arange(count) if depths is None else depths) + space.position)
            attend = attention_plan(space.length, count, group, h, may_attend)
            planned.append(_Part(space, start, start + count, attend))
            start += count
        cos, sin = self.angles(h, torch.cat(places))
        return _Plan(cos, sin, planned)

    def angles(self, h: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and *signed* sines [t, d]: rotated = x·cos + roll(x, d/2)·sin."""
        cos, sin = self.rotary(h, positions[None].to(h.device))
        half = self.head_size // 2
        return cos[0], torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)

    def heads_of(self, layer: _Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [heads, t, d], keys and values [kv_heads, t, d] of x [1, t, hidden], not yet rotated."""

        def by_head(projected: Tensor, heads: int, norm: nn.Module | None) -> Tensor:
            split = projected.view(-1, heads, self.head_size)
            return (split if norm is None else norm(split)).transpose(0, 1)

        return (
            by_head(layer.q_proj(x), self.heads, layer.q_norm),
            by_head(layer.k_proj(x), self.kv_heads, layer.k_norm),
            by_head(layer.v_proj(x), self.kv_heads, None),
        )

    def _attention(self, layer: _Layer, index: int, x: Tensor, plan: _Plan) -> Tensor:
        """Attention output [1, t, heads · d], before the output projection."""
        count, half = x.shape[1], self.head_size // 2
        q, k, v = self.heads_of(layer, x)
        q = torch.addcmul(q * plan.cos, q.roll(half, -1), plan.sin)
        unturned, turned = k * plan.cos, k.roll(half, -1)
        mixed = []
        for part in plan.parts:
            rows = slice(part.start, part.stop)
            new_keys, keys, values = part.space.append(index, v[:, rows])
            torch.addcmul(unturned[:, rows], turned[:, rows], plan.sin[rows], out=new_keys)
            own = q[:, rows].reshape(self.kv_heads, -1, part.stop - part.start, self.head_size)
            seen = part.attend(own, keys, values, layer.scaling)
            mixed.append(seen.reshape(self.heads, -1, self.head_size))
        joined = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)
        return joined.transpose(0, 1).reshape(1, count, -1)
