"""What a checkpoint was trained for: attention, pooling, formats, retrieval. Kept in its `grit_config.json`."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from grit_app.gritlm.errors import ModelError

log = logging.getLogger(__name__)

FILE_NAME: Final = "grit_config.json"
PROMPT_VERSION: Final = "gritlm-1"
"""Version of the formats in prompts.py. Part of every cache's identity: a change of format makes old caches foreign."""

ATTENTION_CODES: Final = ("bbcc", "cccc", "bb", "cc")
POOLING_METHODS: Final = ("mean", "weightedmean", "lasttoken", "cls")
ANSWER_MODES: Final = ("free", "quote", "short")

PUBLISHED: Final = ("gritlm-7b", "gritlm-8x7b")
"""Models without a file of settings, for which the defaults below are right: their retrieval-augmented runs used no
instruction on either side."""


@dataclass(frozen=True, kw_only=True)
class GritConfig:
    """How a checkpoint wants to be used."""

    attention: str = "bbcc"
    """b(idirectional) or c(ausal) for embedding instruction, embedding sample, generation instruction and its sample.
    Generation is causal in every code; `bb` and `cc` are models trained for embeddings alone."""

    pooling: str = "mean"
    normalized: bool = True
    """Embeddings are L2-normalised unless the caller says otherwise."""

    prompt_version: str = PROMPT_VERSION

    retrieval_instruction: str = ""
    """Put before queries (never before documents) when searching."""

    trained_context: int = 2048
    """Longest sequence seen in training, in tokens. Longer inputs work as far as the positions go, but are unproven."""

    answerable_threshold: float = 0.0
    """A question whose best retrieval score is below this is not answerable from the documents."""

    refusal_sentence: str = "The text does not give the answer."
    default_strategy: str = "rag_doc_query"
    default_k: int = 1
    answer_mode: str = "free"
    """`free` writing, or `quote`: only spans of the retrieved passages."""

    answer_prefix: str = "The answer is"
    """Written for the model at the start of a retrieval-augmented answer; may be empty."""

    vector_weight: float = 1.0
    """Share of the vector score in a search by vectors and keywords together; the rest is the keyword score."""

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    """The guards against loops with which the model writes unless the caller says otherwise; small models need them.
    See `Sampling`."""

    small_talk_similarity: float = 0.0
    """Cosine from which on a message means one of the app's own known requests ("Who are you?"), whose reply the model
    then reads as an example; depends on how the checkpoint's cosines are spread. 0: never."""

    confidence: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each kind of answer (each, free, quote) what judges it: `weights` of features, and the thresholds `refuse`,
    `doubt` and `sure`; fitted by `python -m training.fit.confidence`. Empty: answers are not judged."""

    def __post_init__(self) -> None:
        _check_choice("attention", self.attention, ATTENTION_CODES)
        _check_choice("pooling", self.pooling, POOLING_METHODS)
        _check_choice("answer_mode", self.answer_mode, ANSWER_MODES)
        if self.prompt_version != PROMPT_VERSION:
            raise ModelError(
                f"This checkpoint was trained with prompt version {self.prompt_version!r}, and this program only knows "
                f"{PROMPT_VERSION!r}. Use the program version that it came with."
            )
        if not 0 < self.repetition_penalty <= 100 or self.no_repeat_ngram_size < 0:
            raise ModelError(
                "repetition_penalty must lie above 0 and at most at 100, and no_repeat_ngram_size must be at least 0, "
                f"in grit_config.json, not {self.repetition_penalty} and {self.no_repeat_ngram_size}."
            )
        if self.trained_context < 16 or self.default_k < 1:
            raise ModelError("trained_context must be at least 16 and default_k at least 1 in grit_config.json.")
        for name in ("answerable_threshold", "vector_weight", "small_talk_similarity"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ModelError(f"{name} must lie between 0 and 1 in grit_config.json, not {getattr(self, name)}.")

        for kind, fitted in self.confidence.items():
            _check_confidence(kind, fitted)

    @property
    def embedding_is_causal(self) -> bool:
        """Whether the embedding pass uses causal attention (codes `cccc` and `cc`)."""
        return self.attention.startswith("c")

    @classmethod
    def load(cls, folder_or_name: str | Path) -> GritConfig:
        """The configuration of a checkpoint folder or of a published model's name.

        A folder's `grit_config.json` (for a GGUF file: the one beside it) wins; without one, the published models are
        recognised by their name or their folder's name, and everything else gets the defaults above (GritLM's published
        form).
        """
        place = Path(folder_or_name)
        path = (place.parent if place.suffix.lower() == ".gguf" else place) / FILE_NAME
        if path.is_file():
            return cls.from_json(path.read_text(encoding="utf-8"), str(path))
        if not is_published(folder_or_name):
            log.warning("%s has no %s; it is used as GritLM's published models are.", folder_or_name, FILE_NAME)
        return cls()

    @classmethod
    def from_json(cls, text: str, where: str = FILE_NAME) -> GritConfig:
        """Read from JSON; unknown keys and wrong kinds of values are errors that name the file."""
        try:
            values: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ModelError(f"{where} is not valid JSON ({error}). Restore it from the checkpoint.") from error
        if not isinstance(values, dict):
            raise ModelError(f"{where} must hold one JSON object.")
        defaults = asdict(cls())
        for key, value in values.items():
            if key not in defaults:
                raise ModelError(f"{where} has the unknown key {key!r}. Known: {', '.join(defaults)}.")
            wanted = type(defaults[key])
            is_kind = isinstance(value, (int, float)) if wanted is float else isinstance(value, wanted)
            if not is_kind or (isinstance(value, bool) and wanted is not bool):
                raise ModelError(f"{key} in {where} must be of kind {wanted.__name__}, not {value!r}.")
        return cls(**values)

    def save(self, folder: str | Path) -> Path:
        """Write `grit_config.json` into a checkpoint folder; gives the file's path."""
        path = Path(folder) / FILE_NAME
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        return temporary.replace(path)

    def overridden(self, **changes: Any) -> GritConfig:
        """A copy in which those changes that are not None replace the checkpoint's values."""
        names = {field.name for field in fields(self)}
        assert set(changes) <= names, set(changes) - names
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ModelError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")


def _check_confidence(kind: str, fitted: Any) -> None:
    numbers = [fitted.get(name) for name in ("refuse", "doubt", "sure")] if isinstance(fitted, dict) else [None]
    weights = fitted.get("weights") if isinstance(fitted, dict) else None
    numbers += list(weights.values()) if isinstance(weights, dict) else [None]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ModelError(
            f"confidence.{kind} in grit_config.json needs the numbers refuse, doubt and sure, and weights by feature. "
            "Fit it again: python -m training.fit.confidence."
        )


def is_published(folder_or_name: str | Path) -> bool:
    """Whether it is a published model by its name: of the hub, of a cache's folder, or of a copy's folder."""
    return any(part in PUBLISHED for part in re.split(r"[/\\]|--", str(folder_or_name).lower()))
