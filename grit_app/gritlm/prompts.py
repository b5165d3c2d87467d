"""Token ids for everything the model reads: the only place that knows the published formats and who owns BOS.

    embedding     <s><|embed|>\\n{text}                                    without an instruction
                  <s><|user|>\\n{instruction}\\n<|embed|>\\n{text}           with one; the last \\n ends the header
    chat          <s><|user|>\\n{u1}\\n<|assistant|>\\n{a1}</s>\\n<|user|>\\n{u2}\\n<|assistant|>\\n
    continuation  any text that follows cached tokens; no BOS

The markers are plain text; only `<s>` and `</s>` are special tokens, and only this file writes them. What a user types
is always text: a typed `</s>` becomes ordinary pieces, never the id that ends a turn.

Each run of text between special tokens is tokenised in one piece ("jointly"), as at the start of a string. This gives
the ids that GritLM was trained on: its sentencepiece tokenizer puts `▁` before the first marker after `<s>` and before
the newline after `</s>`. (transformers calls that `legacy`; the other form drops the `▁` and changes ids.) Character
offsets of the joint tokenisation tell where the text begins. If a merge reaches across that border, the joint
tokenisation has no such place, and the two sides are tokenised on their own instead.

Source: GRIT (arXiv 2402.09906), appendix; the reference repository's prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from grit_app.gritlm.errors import InputError, ModelError

USER: Final = "<|user|>\n"
ASSISTANT: Final = "<|assistant|>\n"
EMBED: Final = "<|embed|>\n"

QUERY_FIRST_CLOSING: Final = "Optionally using the prior context answer the query prior to it"
DOCUMENT_FIRST_CLOSING: Final = "Answer the prior query while optionally using the context prior to it"


def embedding_header(instruction: str = "") -> str:
    """The text before the sample. An instruction loses tabs, newlines, spaces and colons at its ends, as trained."""
    stripped = instruction.strip("\t\n :")
    return f"{USER}{stripped}\n{EMBED}" if stripped else EMBED


def rag_turn(parts: Sequence[str], *, answer_prefix: str, continued: bool) -> str:
    """One user turn of retrieval-augmented generation: parts separated by empty lines, then the opened answer.

    continued      the turn follows a cached block: it opens with the newline that closes the block's sample
    answer_prefix  the answer's first words, written for the model ("The answer is" for GritLM); may be empty
    """
    return ("\n" if continued else "") + USER + "\n\n".join(parts) + "\n" + ASSISTANT + answer_prefix


@dataclass(frozen=True)
class EmbedPrompt:
    """An embedding input. `ids[:header_length]` is BOS, instruction, marker; the rest is the sample."""

    ids: list[int]
    header_length: int
    truncated: bool

    @property
    def sample(self) -> list[int]:
        return self.ids[self.header_length :]


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation. `answer_spans` are the half-open ranges of ids that the model writes, each with its EOS."""

    ids: list[int]
    answer_spans: list[tuple[int, int]]


class Prompts:
    """Formats texts for one tokenizer. Safe to use from several threads: nothing in it changes after construction."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError("The model's tokenizer has no token that ends a text, which GritLM's formats need.")
        self.eos_id = int(tokenizer.eos_token_id)
        # Qwen's tokenizers have no BOS; there the token that separates documents opens a sequence.
        self.bos_id = self.eos_id if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
        # An own copy: the wrapper's calls switch padding, truncation and special-token parsing on their shared backend.
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError("The model's tokenizer is not of the fast kind (tokenizer.json). Convert it first.")
        self._backend: Tokenizer = Tokenizer.from_str(backend.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True

    def embed(self, text: str, instruction: str = "", max_length: int | None = None) -> EmbedPrompt:
        """Ids of one text to embed. `max_length` counts all ids; it cuts the end of the text, never the header.

        Raises InputError if the text is empty, or if the header alone fills `max_length`.
        """
        return self.embed_many([text], instruction, max_length)[0]

    def embed_many(
        self, texts: Sequence[str], instruction: str = "", max_length: int | None = None
    ) -> list[EmbedPrompt]:
        """`embed` for each text, tokenised together on all cores. With several, an error names the text's index."""
        header = embedding_header(instruction)
        for index, text in enumerate(texts):
            _check_text(text, f"Text {index}" if len(texts) > 1 else "The text")
        joined = self._join_many(header, texts)
        return [self._embed_prompt(ids, border, max_length) for ids, border in joined]

    def continuation(self, text: str) -> list[int]:
        """Ids of text that follows cached tokens: no BOS, and special tokens in it stay text."""
        return self._text_ids(text)

    def opening(self, text: str) -> list[int]:
        """Ids of text that opens a sequence: BOS, then the text."""
        return [self.bos_id, *self._text_ids(text)]

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> ChatPrompt:
        """Ids of a conversation of `{"role": "system" | "user" | "assistant", "content": str}`.

        A system message may only come first and is put before the first user message, joined by a newline: no system
        role was trained. User text is kept as it is; assistant text is stripped. With `add_generation_prompt` the last
        message must be the user's, and the ids end where the answer begins. Raises InputError for other messages.
        """
        turns = _checked_turns(messages)
        if add_generation_prompt and turns[-1][0] != "user":
            raise InputError("The last message must be the user's for the model to answer it.")
        ids, spans = [self.bos_id], []
        run = ""  # text since the last special token
        for position, (role, content) in enumerate(turns):
            if role == "user":
                run += f"{USER}{content}\n"
                continue
            joined, border = self._join(run + ASSISTANT, content.strip())
            spans.append((len(ids) + border, len(ids) + len(joined) + 1))
            ids += [*joined, self.eos_id]
            run = "\n" if position + 1 < len(turns) else ""
        if add_generation_prompt:
            run += ASSISTANT
        return ChatPrompt(ids + (self._text_ids(run) if run else []), spans)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def count(self, text: str) -> int:
        """Number of tokens of a text on its own."""
        return len(self._text_ids(text))

    def _embed_prompt(self, ids: list[int], border: int, max_length: int | None) -> EmbedPrompt:
        header_length, length = border + 1, len(ids) + 1
        if max_length is not None and max_length <= header_length:
            raise InputError(
                f"max_length {max_length} leaves no room for text: the instruction and its markers take "
                f"{header_length} "
                "tokens. Raise max_length, or shorten the instruction."
            )
        limit = length if max_length is None else min(length, max_length)
        return EmbedPrompt([self.bos_id, *ids[: limit - 1]], header_length, truncated=limit < length)

    def _join(self, prefix: str, text: str) -> tuple[list[int], int]:
        return self._join_many(prefix, [text])[0]

    def _join_many(self, prefix: str, texts: Sequence[str]) -> list[tuple[list[int], int]]:
        """(ids of prefix + text, number of ids that belong to the prefix) for each text."""
        joined = []
        texts = [_encodable(text) for text in texts]
        prefix = _encodable(prefix)
        encodings = self._backend.encode_batch([prefix + text for text in texts], add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            border = _border(encoding.offsets, len(prefix))
            if border is None:
                ids, border = self._text_ids(prefix), len(self._text_ids(prefix))
                joined.append((ids + self._text_ids(text), border))
            else:
                joined.append((self._only_text(encoding.ids, prefix + text), border))
        return joined

    def _text_ids(self, text: str) -> list[int]:
        text = _encodable(text)
        return self._only_text(self._backend.encode(text, add_special_tokens=False).ids, text)

    def _only_text(self, ids: list[int], text: str) -> list[int]:
        # Cannot happen with sentencepiece or byte-level vocabularies, whose merges never build a control token.
        if self.bos_id in ids or self.eos_id in ids:
            raise InputError(
                f"This model's tokenizer reads a part of the text {text[:80]!r} as a control token. Remove it."
            )
        return ids


def _border(offsets: Sequence[tuple[int, int]], characters: int) -> int | None:
    """Number of tokens inside the first `characters` characters; None if a token lies on both sides of that border."""
    count = 0
    for start, stop in offsets:
        if start >= characters:
            return count
        if stop > characters:
            return None
        count += 1
    return count


def _encodable(text: str) -> str:
    """The text with `?` for halves of surrogate pairs, which broken files contain and UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _check_text(text: str, name: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"{name} is not a string but of kind {type(text).__name__}.")
    if not text.strip():
        raise InputError(f"{name} is empty. An embedding needs at least one visible character.")


def _checked_turns(messages: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """(role, content) of user and assistant turns, with the system text moved into the first user turn."""
    turns: list[tuple[str, str]] = []
    system = ""
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            raise InputError(f"Message {index} needs a role (system, user or assistant) and content that is a string.")
        if role == "system":
            if index > 0:
                raise InputError(f"Message {index} is a system message; only the first message may be one.")
            system = content + "\n"
        elif role == "user":
            turns.append((role, system + content))
            system = ""
        else:
            turns.append((role, content))
    if not turns or system:
        raise InputError("There is no user message to answer.")
    return turns
