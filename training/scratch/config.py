"""Every setting of a pretraining run, typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from training.scratch.corpus import CorpusError, SourceConfig
from training.scratch.static_table import StaticConfig


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """A Mistral model's shape."""

    hidden_size: int = 384
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 1024
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the run with one row length: short rows first, they are cheap and teach most."""

    tokens: int
    length: int
    batch_rows: int
    """Rows of an optimizer step."""

    micro_rows: int = 8
    """Rows of one forward pass; must divide batch_rows."""

    def __post_init__(self) -> None:
        if self.batch_rows % self.micro_rows:
            raise CorpusError(f"micro_rows {self.micro_rows} does not divide batch_rows {self.batch_rows}.")

    @property
    def batch_tokens(self) -> int:
        return self.length * self.batch_rows


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything a pretraining run depends on."""

    data_dir: Path
    tokenizer_dir: Path
    output_dir: Path
    sources: list[SourceConfig] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    teacher_dirs: list[Path] = field(default_factory=list)
    """Outputs of training.scratch.teacher: they make the initial token table. None: random."""

    static: StaticConfig = field(default_factory=StaticConfig)
    """How the token table is trained as an embedding model of its own, before the head is fitted."""

    distill_texts: int = 0
    """Texts of the teacher in each step (0: no second stream)."""

    distill_weight: float = 1.0
    """Of the similarities within a batch."""

    distill_vectors: float = 0.0
    """Of each vector's distance from the teacher's, turned into the first model's basis. 0: not compared."""

    distill_every: int = 1
    """Steps from one batch of the teacher's texts to the next."""

    distill_max_length: int = 96
    answer_weight: float = 1.0
    """How much more a token of an assistant's turn counts than one of running text."""

    corpus_characters: int = 200_000_000
    """Text read in all, shared by the sources' weights; a source that is smaller is read whole."""

    fraction: float = 1.0
    """Scales tokens of every phase and corpus_characters: 0.01 is a rehearsal."""

    learning_rate: float = 0.001
    """Muon's, for the layers' matrices: the RMS change of an element in one step."""

    table_learning_rate: float = 0.0001
    """AdamW's, for the input table: slow, it starts good. Elements are about 0.3."""

    head_learning_rate: float = 0.0005

    head_steps: int = 400
    """Steps of fitting the head to token pairs before training; some two minutes on two cores at 8k entries. 0: the
    head starts at zero."""

    vector_learning_rate: float = 0.003
    weight_decay: float = 0.01
    ns_steps: int = 5
    warmup_steps: int = 20
    decay_fraction: float = 0.0
    """Share of the steps that decay to `decay_floor`. 0: leave the decay to the next stage."""

    decay_floor: float = 0.05
    z_loss: float = 1e-4
    grad_clip: float = 1.0
    seed: int = 0
    threads: int = 2
    compile: bool = False
    """Compile the trunk: a minute at the start, a sixth of the time of each step on a CPU."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of matrix products; weights and sums stay in float32. auto: bf16 where the processor has units for it."""

    kernel: Literal["sdpa", "eager"] = "sdpa"
    """Attention. On a CPU compiled `eager` is faster for rows of some hundred tokens: sdpa's backward is slow there."""

    device: str = "cpu"
    resume: str | None = None
    """`auto`: go on from the newest checkpoint in output_dir, if there is one."""

    init_from: Path | None = None
    """Start at step 0 from the weights in this folder."""

    save_every_s: float = 300.0
    log_every: int = 10
