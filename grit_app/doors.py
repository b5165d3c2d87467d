"""What the world may not give: a folder, a port, letters on a terminal, a name in this encoding. A sentence each."""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from grit_app.errors import DocumentError, GritError, SettingsError


def make_usable(folder: Path) -> None:
    """Makes a private folder with its parents, and tries it. Raises DocumentError naming it if it cannot be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror or str(error)
        raise DocumentError(
            f"The data folder {shown(str(folder))} cannot be used: {reason}. Choose another with --data_dir."
        ) from error


def check_port(host: str | None, port: int | None) -> None:
    """Raises SettingsError if a port that was asked for cannot be listened on. Without one Gradio finds a free one."""
    given = str(port or os.environ.get("GRADIO_SERVER_PORT") or "")
    if not given.isdecimal():
        return
    address = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.strip("[]"), int(given)))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(f"Port {given} is in use. Choose another with --port.") from error
        if error.errno == errno.EACCES:
            raise SettingsError(f"Port {given} is not for everybody. Choose one from 1024 with --port.") from error
        raise SettingsError(f"{address} is no address of this machine. Choose another with --host.") from error


@contextmanager
def one_sentence() -> Iterator[None]:
    """Around a command: an error of ours ends it with its sentence on standard error and exit status 2."""
    replace_unknown_letters()
    try:
        yield
    except GritError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


def replace_unknown_letters() -> None:
    """Standard output and error show what their encoding has, and a question mark for the rest."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def writes_unicode() -> bool:
    """Whether standard output takes every letter."""
    return (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def shown(name: str) -> str:
    """A name as text: bytes that are no UTF-8 (surrogates, PEP 383) become replacement signs."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
