"""The files in a .tar.gz, .tar or .zip archive, read where they are. Knows no checkpoint; loads no torch.

Nothing is unpacked, so no name in an archive becomes a path. Hidden files are left out; macOS adds some
("._model.index"). A file that would be far larger than its archive is not read into memory.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

_EXPANSION = 100  # how many times the size of its archive a file may have


@contextmanager
def members(path: Path) -> Iterator[Iterator[tuple[str, Callable[[], bytearray]]]]:
    """The name of each file in an archive, in order, and what reads it; call that before the next name.

    A damaged archive is an exception of tarfile, zipfile or zlib, a ValueError or an OSError.
    """
    most = _EXPANSION * path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield (
                (file.filename, lambda file=file: _content(packed.open(file), file.file_size, most))
                for file in packed.infolist()
                if not file.is_dir() and not _is_hidden(file.filename)
            )
        return
    with tarfile.open(path) as archive:
        yield (
            (
                info.name.removeprefix("./"),
                lambda info=info: _content(archive.extractfile(info), info.size, most),
            )
            for info in archive
            if info.isfile() and not _is_hidden(info.name)
        )


def zip_names(path: Path, *suffixes: str) -> list[str]:
    """The files of a zip archive whose names end in one of these ways."""
    with zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if name.endswith(suffixes) and not _is_hidden(name)]


def zip_member(path: Path, name: str) -> io.BytesIO:
    """The content of a file in a zip archive, in memory."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
        if info.file_size > _EXPANSION * path.stat().st_size:
            raise ValueError(f"a file of {info.file_size} bytes in the archive is out of proportion")
        content = io.BytesIO()
        with archive.open(info) as file:
            shutil.copyfileobj(file, content, 1 << 20)
        return content


def member_sha256(path: Path, name: str) -> str:
    """The SHA-256 of a file in an archive, 64 hex digits; "" where no such file can be read."""
    try:
        with members(path) as found:
            return next((hashlib.sha256(read()).hexdigest() for member, read in found if member == name), "")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError):
        return ""


def _is_hidden(name: str) -> bool:
    return PurePosixPath(name).name.startswith(".")


def _content(file: Any, size: int, most: int) -> bytearray:
    """The content of an open file, in memory that can be written, as tensors want it."""
    with file:
        if size > most:
            raise ValueError(f"a file of {size} bytes in the archive is out of proportion")
        content = bytearray(size)
        view, at = memoryview(content), 0
        while at < size and (count := file.readinto(view[at:])):
            at += count
    if at != size:
        raise ValueError(f"{at} of {size} bytes")
    return content
