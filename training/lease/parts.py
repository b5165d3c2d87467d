"""A folder as one archive in parts of a size, with checksums; and back."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

from training.config import TrainError

CHECKSUMS = "{name}.sha256"


class PartsError(TrainError):
    """A part is missing or damaged."""


class _Parts(io.RawIOBase):
    """What is written goes into `name-000`, `name-001`, … of `size` bytes each."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self._folder, self._name, self._size = folder, name, size
        self._file: Any = None
        self.paths: list[Path] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        start = 0
        while start < len(view):
            if self._file is None or self._file.tell() == self._size:
                self.close_part()
                self.paths.append(self._folder / f"{self._name}-{len(self.paths):03d}")
                self._file = self.paths[-1].open("wb")
            room = self._size - self._file.tell()
            start += self._file.write(view[start : start + room])
        return len(view)

    def close_part(self) -> None:
        if self._file is not None:
            self._file.close()


def write_parts(source: Path, folder: Path, name: str, size: int) -> list[Path]:
    """Puts all files of `source` into parts of `size` bytes in `folder`, the last one smaller; gives the parts.

    `<name>.sha256` has their checksums in the form of sha256sum. The same files give the same parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = _Parts(folder, name, size)
    with tarfile.open(fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                archive.add(path, str(path.relative_to(source)), filter=_plain)
    parts.close_part()
    lines = [f"{checksum(path)}  {path.name}\n" for path in parts.paths]
    (folder / CHECKSUMS.format(name=name)).write_text("".join(lines), encoding="utf-8")
    return parts.paths


def read_parts(folder: Path, name: str, target: Path) -> None:
    """Unpacks what `write_parts` wrote. Raises PartsError naming the parts that are missing or damaged."""
    listing = folder / CHECKSUMS.format(name=name)
    if not listing.is_file():
        raise PartsError(f"{folder} holds no {listing.name}, which lists the parts. Copy it there with them.")
    lines = [line.split() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    wanted = {part: digest for digest, part in lines}
    missing = sorted(part for part in wanted if not (folder / Path(part).name).is_file())
    if missing:
        raise PartsError(f"{len(missing)} of {len(wanted)} parts are missing: {', '.join(missing[:8])}. Copy them.")
    damaged = sorted(part for part, digest in wanted.items() if checksum(folder / Path(part).name) != digest)
    if damaged:
        raise PartsError(f"{len(damaged)} parts are damaged: {', '.join(damaged[:8])}. Copy them again.")
    target.mkdir(parents=True, exist_ok=True)
    paths = [folder / Path(part).name for part in sorted(wanted)]
    with _Joined(paths) as joined, tarfile.open(fileobj=joined, mode="r|") as archive:
        archive.extractall(target, filter="data")  # nothing outside of `target`, no links out of it


class _Joined(io.RawIOBase):
    """The bytes of several files, one after the other."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = iter(paths)
        self._file: Any = None

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._file is None:
                path = next(self._paths, None)
                if path is None:
                    return 0
                self._file = path.open("rb")
            if count := self._file.readinto(buffer):
                return int(count)
            self._file.close()
            self._file = None


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode = 0o755 if entry.name.endswith(".sh") else 0o644
    return entry
