"""Answers that fit a JSON schema: llguidance tells after each token which ones may follow.

Source: the token masks of Microsoft's llguidance, which also serves llama.cpp, SGLang and vLLM.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Collection
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from grit_app.gritlm import GritLM
from grit_app.gritlm.write.generation import stop_ids
from grit_app.serve.errors import bad_request

ANY_OBJECT: dict[str, Any] = {"type": "object"}
MAX_SCHEMA_CHARACTERS = 100_000

EXACT_INTEGER = 2**53 - 1
"""Larger integers are not read exactly by everyone (RFC 8259, section 6)."""

_tokenizers: weakref.WeakKeyDictionary[GritLM, LLTokenizer] = weakref.WeakKeyDictionary()


def tokenizer_of(model: GritLM) -> LLTokenizer:
    """The model's vocabulary as llguidance reads it; made once, for that takes a second."""
    if model not in _tokenizers:
        size = int(model.hf_model.config.vocab_size)
        _tokenizers[model] = from_tokenizer(model.tokenizer, n_vocab=size, eos_token=model.prompts.eos_id)  # type: ignore[arg-type]
    return _tokenizers[model]


def bounded(schema: Any) -> Any:
    """The schema with a limit for integers that have none: a small model may write digits without end."""
    if isinstance(schema, list):
        return [bounded(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: value if name in ("const", "enum", "default", "examples") else bounded(value)
        for name, value in schema.items()
    }
    if found.get("type") == "integer":
        if not {"minimum", "exclusiveMinimum"} & found.keys():
            found["minimum"] = -EXACT_INTEGER
        if not {"maximum", "exclusiveMaximum"} & found.keys():
            found["maximum"] = EXACT_INTEGER
    return found


class SchemaConstraint:
    """Limits an answer to texts that a JSON schema describes. Raises ApiError 400 for a schema that cannot be used."""

    def __init__(self, model: GritLM, schema: dict[str, Any], param: str = "response_format") -> None:
        self._model = model
        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA_CHARACTERS:
            raise bad_request(
                f"The schema has {len(text):,} characters; at most {MAX_SCHEMA_CHARACTERS:,} are read.", param
            )
        try:
            self._grammar = LLMatcher.grammar_from_json_schema(bounded(schema), defaults={"whitespace_flexible": False})
        except ValueError as error:
            raise bad_request(f"This JSON schema cannot be used: {error}.", param) from error
        if complaint := LLMatcher.validate_grammar(self._grammar, tokenizer_of(model)):
            raise bad_request(f"This JSON schema cannot be used: {' '.join(complaint.split())}.", param)

    def begin(self) -> SchemaState:
        return SchemaState(LLMatcher(tokenizer_of(self._model), self._grammar), self._model)


class SchemaState:
    """Where one answer stands in its schema."""

    def __init__(self, matcher: LLMatcher, model: GritLM) -> None:
        self._matcher = matcher
        self._eos = model.prompts.eos_id
        self._stops = stop_ids(model)

    def allowed(self) -> Collection[int]:
        """Ids that may follow; the end-of-text id once the answer is whole."""
        if self._matcher.is_stopped():
            return [self._eos]
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        ids: list[int] = np.flatnonzero(bits).tolist()
        return ids or [self._eos]

    def advance(self, token_id: int) -> None:
        if token_id not in self._stops:
            self._matcher.consume_token(token_id)
