"""Each caller's documents: a library of its own under the data folder, opened when it is first needed."""

from __future__ import annotations

import os
import threading

from grit_app.documents.document import Limits
from grit_app.documents.library import Library
from grit_app.gritlm import GritLM
from grit_app.serve.errors import ApiError
from grit_app.serve.keys import Caller
from grit_app.settings import Settings

THIS_MACHINE = ("", "127.0.0.1", "localhost", "::1")


def is_open_to_strangers(settings: Settings) -> bool:
    """Whether others reach this server and no key tells them apart."""
    host = settings.host if settings.host is not None else os.environ.get("GRADIO_SERVER_NAME", "")
    shared = settings.share or bool(os.environ.get("SPACE_ID")) or host not in THIS_MACHINE
    return shared and not settings.api_key_hashes


def may_keep(settings: Settings) -> None:
    """Raises ApiError 403 where what is kept would be everybody's."""
    if is_open_to_strangers(settings):
        raise ApiError(
            403,
            "This server is shared and has no keys, so it keeps nothing for its callers. Start it with --api_key, or "
            "send the texts with the request.",
            code="keys_needed",
        )


class Libraries:
    """Safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[str, Library] = {}
        self._lock = threading.Lock()

    def of(self, caller: Caller, model: GritLM) -> Library:
        """The caller's library. Raises ApiError 403 where callers cannot be told apart."""
        may_keep(self._settings)
        with self._lock:
            if caller.owner not in self._open:
                settings = self._settings
                self._open[caller.owner] = Library(
                    model,
                    settings.data_folder / "api" / caller.owner,
                    limits=limits_of(settings),
                    cache_budget_bytes=settings.cache_budget_bytes,
                    chunk_tokens=settings.chunk_tokens,
                    cache_scheme=settings.cache_scheme,
                    vectors=settings.vectors,
                )
            return self._open[caller.owner]

    def close(self) -> None:
        """Closes all; what they hold stays on disk."""
        with self._lock:
            for library in self._open.values():
                library.close()
            self._open.clear()


def limits_of(settings: Settings) -> Limits:
    """How much one caller may upload."""
    return Limits(max_bytes=settings.max_file_bytes, max_pages=settings.max_pages, max_documents=settings.max_files)


def passing(model: GritLM, settings: Settings) -> Library:
    """A library in memory, for texts that come with one request."""
    return Library(model, None, limits=limits_of(settings), cache_budget_bytes=0, chunk_tokens=settings.chunk_tokens)
