"""Every knob of the app once: typed, checked at start, as a command-line flag and as a GRIT_* variable.

    settings = load(sys.argv[1:])          # --port 7861 wins over GRIT_PORT=7861, which wins over the default

Sizes that the app shows (`max_file_mb` …) are shown from here, so what a visitor reads is what is enforced.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from grit_app.errors import SettingsError

MB = 1_000_000
MOST_PASSAGES = 16
"""That one question may ask for: more leave no room for the answer."""

SWITCHES = {"1": "true", "yes": "true", "on": "true", "0": "false", "no": "false", "off": "false"}


def _knob(default: Any, help_text: str) -> Any:
    """A field of Settings with the words that `--help` shows for it."""
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the app runs. Contradictions are refused here, before a model is loaded."""

    model: str = _knob(
        "auto",
        "A folder, GGUF file or Hugging Face name of a checkpoint; auto: GritLM-7B if a GPU has room, else the one in "
        "assets/.",
    )
    engine: Literal["own", "openai"] = _knob(
        "own",
        "Who writes. own: the model itself; openai: the server of OpenAI's protocol at base_url, and the model embeds, "
        "searches and quotes.",
    )
    base_url: str | None = _knob(
        None,
        "Address of that server, with /v1 at its end; its key is read from OPENAI_API_KEY.",
    )
    remote_model: str | None = _knob(
        None,
        "Which of that server's models writes; unset: the first one that it lists.",
    )
    vectors: str | None = _knob(
        None,
        "Address of a Chroma server that keeps the vectors, such as http://localhost:8000; unset: none is needed.",
    )
    quantization: Literal["auto", "none", "8bit", "4bit"] = _knob(
        "auto",
        "How weights are held. auto: unquantized if they fit, else 4 bit, which costs a little quality.",
    )
    device: Literal["auto", "cpu", "cuda"] = _knob(
        "auto",
        "Where the model runs; auto: the GPU if there is one.",
    )
    host: str | None = _knob(
        None,
        "Address to listen on; unset: Gradio's own (GRADIO_SERVER_NAME, else this machine only).",
    )
    port: int | None = _knob(
        None,
        "Port to listen on; unset: Gradio's own (GRADIO_SERVER_PORT, else the first free one from 7860).",
    )
    share: bool = _knob(
        False,
        "Open a public link through Gradio's relay.",
    )
    data_dir: Path | None = _knob(  # noqa: RUF009  the knob holds an immutable value
        None,
        "Folder of the local libraries, one a browser, which survive a restart; unset: a folder in the user's home. "
        "With share, or on a Hugging Face Space, documents stay in memory and are freed soon after their page closes.",
    )
    strategy: str | None = _knob(
        None,
        "How caches are reused when a question is answered; unset: what the checkpoint names as its default.",
    )
    k: int | None = _knob(
        None,
        "Passages retrieved for a question; unset: what the checkpoint names as its default.",
    )
    answer_mode: Literal["quote", "short", "free"] | None = _knob(
        None,
        "quote: answers are spans of the passages; free: the model writes; unset: the checkpoint's default.",
    )
    repetition_penalty: float | None = _knob(
        None,
        "Makes tokens that an answer has already less likely, against loops; 1: off; unset: the checkpoint's default.",
    )
    no_repeat_ngram_size: int | None = _knob(
        None,
        "No run of so many tokens twice in an answer; 0: off; unset: the checkpoint's default.",
    )
    chunk_tokens: int = _knob(
        200,
        "Longest passage. Longer ones read better in context, shorter ones are found more precisely.",
    )
    answer_tokens: int = _knob(
        64,
        "Longest answer over documents.",
    )
    chat_tokens: int = _knob(
        256,
        "Longest reply in the chat unless the visitor chooses another.",
    )
    max_file_mb: int = _knob(
        50,
        "Largest file that may be uploaded.",
    )
    max_pages: int = _knob(
        10_000,
        "Pages of a document that are read; those behind them are named in its row.",
    )
    max_files: int = _knob(
        50,
        "Documents that one visitor may keep.",
    )
    ocr_pages: int = _knob(
        4,
        "Scanned pages of an uploaded file that are read by OCR at once, where it is installed; for more there is a "
        "button. 0: none is read unasked.",
    )
    cache_budget_mb: int = _knob(
        2048,
        "Disk for KV caches of one library; the least recently used go first. 0: none is kept.",
    )
    memory_mb: int | None = _knob(
        None,
        "Memory that caches of documents, of chats and of /v1, and files of visitors who keep nothing on disk, share; "
        "the least recently used caches go first. Unset: a fourth of what is free once the model is loaded.",
    )
    cache_scheme: Literal["native", "int8", "int4"] = _knob(
        "native",
        "How KV caches are kept: in the model's precision, or in 8 or 4 bits (a half or a fourth of bfloat16's bytes).",
    )
    max_visitors: int = _knob(
        64,
        "Libraries of visitors held at once; the longest idle goes first.",
    )
    visitor_idle_minutes: int = _knob(
        60,
        "A visitor's library is freed after so long without a request.",
    )
    visitor_rate: int = _knob(
        60,
        "Questions, messages and comparisons that one visitor of a shared app may start a minute; 0: any number.",
    )
    library_days: int = _knob(
        0,
        "A local library that no browser opened for so many days is removed when the app starts; 0: only empty ones.",
    )
    queue_size: int = _knob(
        64,
        "Requests under way at once, those that wait for their turn included; the next one is told to come back.",
    )
    api_key: str | None = _knob(
        None,
        "Keys that programs need for /v1, separated by commas: each as it is, or as sha256:HEX. Unset: none is needed.",
    )
    api_rate: int = _knob(
        0,
        "Requests to /v1 within a minute for each key; 0: any number.",
    )
    api_concurrency: int = _knob(
        64,
        "Requests to /v1 that each key may have running.",
    )
    api_bytes_mb: int = _knob(
        1024,
        "Memory for KV caches that each key keeps through handles, within memory_mb; the least recently used go first.",
    )
    request_timeout_s: int = _knob(
        600,
        "Longest time for one request to /v1.",
    )

    def __post_init__(self) -> None:
        least = {
            "k": 1,
            "no_repeat_ngram_size": 0,
            "chunk_tokens": 16,
            "answer_tokens": 1,
            "chat_tokens": 1,
            "max_file_mb": 1,
            "max_pages": 1,
            "max_files": 1,
            "ocr_pages": 0,
            "cache_budget_mb": 0,
            "memory_mb": 1,
            "max_visitors": 1,
            "visitor_idle_minutes": 1,
            "visitor_rate": 0,
            "library_days": 0,
            "queue_size": 1,
            "api_rate": 0,
            "api_concurrency": 1,
            "api_bytes_mb": 0,
            "request_timeout_s": 1,
            "port": 1,
        }
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise SettingsError(f"{name} must be at least {lowest}, not {value}.")
        if self.k is not None and self.k > MOST_PASSAGES:
            raise SettingsError(
                f"k must be at most {MOST_PASSAGES}, not {self.k}. More passages leave no room to answer."
            )
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty <= 100:
            raise SettingsError(
                f"repetition_penalty must be above 0 and at most 100 (1 is off), not {self.repetition_penalty}."
            )
        if self.port is not None and self.port > 65535:
            raise SettingsError(f"port must be at most 65535, not {self.port}.")
        for name in ("base_url", "vectors"):
            address = getattr(self, name)
            if address is not None and not re.fullmatch(r"https?://[^/\s]+\S*", address):
                raise SettingsError(f"{name} must be an address such as http://localhost:8000, not {address!r}.")
        if self.engine == "openai" and self.base_url is None:
            raise SettingsError("engine openai needs base_url, the address of the server that writes.")
        if not self.model.strip():
            raise SettingsError("model is empty. Give a folder, a Hugging Face name, or auto.")
        if self.api_key is not None:
            # Only hashes are kept, so that no log and no traceback can show a key.
            object.__setattr__(self, "api_key", ",".join(f"sha256:{digest}" for digest in _key_hashes(self.api_key)))

    @property
    def data_folder(self) -> Path:
        """Where the local library lives: `data_dir`, else the platform's folder for user data."""
        if self.data_dir is not None:
            return self.data_dir.expanduser()
        base = os.environ.get("XDG_DATA_HOME") or os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / ".local" / "share") / "grit-workbench"

    @property
    def api_key_hashes(self) -> tuple[str, ...]:
        """SHA-256 of each key, in hexadecimal."""
        return _key_hashes(self.api_key) if self.api_key else ()

    @property
    def cache_budget_bytes(self) -> int:
        return self.cache_budget_mb * MB

    @property
    def max_file_bytes(self) -> int:
        return self.max_file_mb * MB


def _key_hashes(keys: str) -> tuple[str, ...]:
    """SHA-256 of each of the keys, which are plain or hashed already. Raises SettingsError for a bad one."""
    hashes = []
    for number, key in enumerate(keys.split(","), 1):
        plain, hashed = key.strip(), re.fullmatch(r"sha256:([0-9a-f]{64})", key.strip())
        if not plain or (plain.startswith("sha256:") and not hashed):
            raise SettingsError(
                f"api_key: key {number} cannot be used. Separate keys by commas; a hash is sha256: and 64 hex digits."
            )
        hashes.append(hashed[1] if hashed else hashlib.sha256(plain.encode()).hexdigest())
    return tuple(dict.fromkeys(hashes))


def load(args: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags, then GRIT_* variables, then defaults. `--help` prints and exits.

    Raises SettingsError with one sentence for an unknown flag or a value that cannot be used.
    """
    environment = os.environ if environ is None else environ
    parser = _parser()
    chosen: dict[str, Any] = {}
    for name in _hints():
        variable = f"GRIT_{name.upper()}"
        if value := environment.get(variable):  # an empty variable counts as unset
            chosen[name] = _parse(parser, name, value, variable)
    try:
        flags = parser.parse_args(list(args), defaults=False, env=False)
    except ArgumentError as error:
        raise SettingsError(_sentence(str(error))) from error
    chosen.update({name: value for name, value in vars(flags).items() if name in _hints()})
    return Settings(**chosen)


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=_program(Path(sys.argv[0])),
        description="Chat, similarity and cited answers over your documents with one GritLM model.",
        epilog="Every flag is also an environment variable: --port is GRIT_PORT.",
        exit_on_error=False,
    )
    for knob in fields(Settings):
        hint = _hints()[knob.name]
        # `--share` alone means yes; the other flags need a value.
        switch: dict[str, Any] = {"nargs": "?", "const": True} if hint is bool else {}
        parser.add_argument(f"--{knob.name}", type=hint, default=knob.default, help=knob.metadata["help"], **switch)
    return parser


def _program(started: Path) -> str:
    """The command as it was typed: app.py, grit-workbench, or `python -m grit_app.serve`."""
    if started.name != "__main__.py":
        return started.name
    parts = started.parts[:-1]
    return f"python -m {'.'.join(parts[parts.index('grit_app') :])}" if "grit_app" in parts else started.name


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings)


def _parse(parser: ArgumentParser, name: str, value: str, variable: str) -> Any:
    if _hints()[name] is bool:
        value = SWITCHES.get(value.strip().lower(), value)
    try:
        return parser.parse_object({name: value})[name]
    except ArgumentError as error:
        raise SettingsError(f"{variable} cannot be {value!r}. {_expected(name)}") from error


def _expected(name: str) -> str:
    """What a setting takes, in words."""
    hint = _hints()[name]
    choices = [choice for part in (hint, *get_args(hint)) if get_origin(part) is Literal for choice in get_args(part)]
    if choices:
        return f"Use one of {', '.join(choices)}."
    return "Use a whole number." if hint in (int, int | None) else "Use true or false." if hint is bool else "Use text."


def _sentence(message: str) -> str:
    """The parser's complaint about the flags as one sentence."""
    if named := re.search(r'Parser key "(\w+)".*(?:value|Given value): (.*)\s*$', message, re.DOTALL):
        return f"--{named[1]} cannot be {named[2].strip()!r}. {_expected(named[1])}"
    return f"{' '.join(message.split())}. See --help."
