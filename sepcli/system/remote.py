"""Files at addresses (s3://bucket/song.wav): listed, fetched and put there whole, by fsspec.

Knows addresses, bytes and what can go wrong on the way; no audio and no batch. Each call is tried again where
that may help (a busy server, a cut transfer): by the library of the storage where it does so itself, and by us,
after PAUSES, where it does not. What stays wrong is one sentence, an InputError or an OutputError. Where
credentials come from is fsspec's business.

A file has a *stamp*, a number by which a change is seen: of its ETag, or of its date where it has none. Its
content is not read for that.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sepcli.errors import DeviceError, InputError, OutputError, SepcliError, UsageError, first_line, require

PAUSES = (0.5, 2.0, 6.0)  # seconds before each attempt but the first
_AT_ONCE = 8  # small requests
_BLOCK = 1 << 20  # bytes that are read at once
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WEB = ("http", "https", "ftp", "ftps", "file")  # addresses that a person copies, mostly of no audio file
# A file that is put there appears when all of it has arrived, by the protocol itself.
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
# Their libraries try again themselves: s3fs up to 25 times, which takes most of a minute.
_PATIENT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
# What in a listing tells one content of a file from another, the best first.
_VERSIONS = (
    "ETag",
    "etag",
    "generation",
    "md5Hash",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)
_DATES = ("LastModified", "last_modified", "updated", "mtime", "created")  # when it was written, for people
_FINAL = (
    FileNotFoundError,
    PermissionError,
    NotImplementedError,
    IsADirectoryError,
    NotADirectoryError,
    ValueError,
)
_OURS = (AssertionError, AttributeError, NameError, TypeError)  # mistakes in this file
_DENIED = re.compile("credentials|expired|access key|access denied|forbidden|unauthori[sz]ed", re.IGNORECASE)

Found = TypeVar("Found")
Item = TypeVar("Item")


def scheme(text: str) -> str:
    """The protocol of an address, in lower case; "" for a path."""
    return text.split("://")[0].lower() if _ADDRESS.match(text) else ""


def is_remote(text: str) -> bool:
    """Whether this is the address of a storage; those of the web and file:// are none of ours."""
    return scheme(text) not in ("", *_WEB)


@dataclass(frozen=True)
class RemoteFile:
    """A file at an address, as it was when somebody looked."""

    url: str
    size: int  # bytes
    stamp: int  # by which a change is seen
    path: str = field(repr=False)  # as its storage calls it
    storage: Storage = field(repr=False, compare=False)
    date: float | None = field(default=None, repr=False, compare=False)  # seconds since 1970, where it is told

    @property
    def key(self) -> tuple[str, str]:
        """Equal for two names of one file."""
        return self.storage.key(self.path)

    def again(self) -> RemoteFile:
        """As it is now; InputError where it is gone."""
        return self.storage.file(self.path, self.url)

    def fetch(self, copy: Path) -> None:
        """Copy it whole into the local file `copy`. InputError where it is not what it was."""
        self.storage.fetch(self, copy)

    def sha256(self) -> str:
        """Of its content, which is read for that: 64 hex digits."""
        return self.storage.sha256(self)


class Storage:
    """What is at and below an address. `root` is the path of the address there.

    writing: whether files are put there, so that errors are OutputErrors; else InputErrors.
    DeviceError where a package is missing; UsageError for an address that can't be.
    """

    def __init__(self, url: str, *, writing: bool = False):
        self._address, url = url, re.sub(r"(://[^/@:]*):[^/@]*@", r"\1@", url)  # a password is shown to nobody
        self.url = url.rstrip("/")
        self.writing = writing
        self.protocol = scheme(url)
        self._fs, root = _open(self._address, self.url)
        self.root = root.rstrip("/")
        if not self.root.strip("/"):
            raise UsageError(
                f"'{url}' names no bucket.",
                remedy=f"Give one, and a folder if need be: {self.protocol}://bucket/folder.",
                code="address",
            )

    @property
    def fs(self) -> Any:
        """Of fsspec. A copy in another process opens it there, at its first use, with what it finds there."""
        if self._fs is None:
            self._fs, _ = _opened_again(self._address, self.url)
        return self._fs

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fs": None}

    # --- looking ---

    def at(self, relative: str) -> str:
        """The path of what is below the address."""
        return f"{self.root}/{relative}"

    def shown(self, relative: str) -> str:
        """The address of what is below the address."""
        return f"{self.url}/{relative}"

    def key(self, path: str) -> tuple[str, str]:
        """Of the file at a path; see RemoteFile."""
        return self.protocol, path

    def find(self, inside: str = "") -> dict[str, RemoteFile]:
        """All files below the address, or a folder there, by their path from the address.

        A bucket that is missing is an error where files are read; none where they are written: `write` tells.
        """

        def found() -> Mapping[str, Mapping[str, Any]]:
            self.fs.invalidate_cache()
            try:
                return self.fs.find(self.at(inside) if inside else self.root, detail=True)
            except FileNotFoundError:
                if self.writing:  # a folder is there once something is in it
                    return {}
                raise

        start = self.root + "/"
        below = {
            path.removeprefix(start): (path, info)
            for path, info in self._try(found, self.url).items()
            if path.startswith(start) and info.get("type") == "file"
        }
        return {name: self._described(path, self.shown(name), info) for name, (path, info) in below.items()}

    def is_file(self) -> bool:
        """Whether the address is of a file. InputError where there is nothing, or it can't be seen."""
        return self._info(self.root, self.url)["type"] != "directory"

    def file(self, path: str, url: str) -> RemoteFile:
        """A file as it is now; an error of `missing` where there is none."""
        return self._described(path, url, self._info(path, url))

    def look(self, relatives: Collection[str]) -> dict[str, RemoteFile]:
        """Those of these files below the address that are there, as they are now."""
        found = zip(relatives, self.each(self._look, relatives), strict=True)
        return {name: file for name, file in found if file is not None}

    def each(self, call: Callable[[Item], Found], items: Collection[Item]) -> list[Found]:
        """What the call gives for each; several at once where the storage bears it. Raises the first error."""
        if not getattr(self.fs, "async_impl", False):  # one thread at a time
            return [call(item) for item in items]
        from concurrent.futures import ThreadPoolExecutor  # not at the start of every run

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(call, items))

    def _look(self, relative: str) -> RemoteFile | None:
        try:
            return self.file(self.at(relative), self.shown(relative))
        except SepcliError as error:
            if error.code == "missing":
                return None
            raise

    def _info(self, path: str, url: str) -> Mapping[str, Any]:
        def info() -> Mapping[str, Any]:
            self.fs.invalidate_cache()
            try:
                return self.fs.info(path)
            except FileNotFoundError:
                raise
            except OSError:
                self.fs.ls(self.fs._parent(path))  # an answer without a body has no reason; this one has
                raise

        return self._try(info, url)

    def _described(self, path: str, url: str, info: Mapping[str, Any]) -> RemoteFile:
        version = next((info[key] for key in _VERSIONS if info.get(key)), "")
        if isinstance(version, datetime):  # in a listing it may be a number
            version = version.timestamp()
        digest = hashlib.sha256(str(version).encode()).digest()
        dates = (date.timestamp() if isinstance(date, datetime) else date for date in map(info.get, _DATES))
        date = next((date for date in dates if isinstance(date, float)), None)
        return RemoteFile(url, int(info.get("size") or 0), int.from_bytes(digest[:7], "big"), path, self, date)

    # --- reading ---

    def fetch(self, file: RemoteFile, copy: Path) -> None:
        """Copy a file into the local file `copy`, whole."""

        def get() -> None:
            self.fs.get_file(file.path, str(copy))
            if (size := copy.stat().st_size) != file.size:
                raise _Cut(f"{size} of {file.size} bytes arrived")

        self._try(get, file.url)
        self._check_unchanged(file)

    def sha256(self, file: RemoteFile) -> str:
        """The SHA-256 of a file's content, which streams through."""

        def read() -> str:
            digest, size = hashlib.sha256(), 0
            with self.fs.open(file.path, "rb") as opened:
                while block := opened.read(_BLOCK):
                    digest.update(block)
                    size += len(block)
            if size != file.size:
                raise _Cut(f"{size} of {file.size} bytes arrived")
            return digest.hexdigest()

        digest = self._try(read, file.url)
        self._check_unchanged(file)
        return digest

    def _check_unchanged(self, file: RemoteFile) -> None:
        if file.again() != file:
            raise InputError(
                f"'{file.url}' was changed while it was read.",
                remedy="Run again when nobody writes to it.",
                code="changed",
            )

    def read(self, relatives: Sequence[str]) -> dict[str, bytes]:
        """What is in these files, all at once; those that are gone meanwhile are left out."""
        if not relatives:
            return {}
        paths = {self.at(relative): relative for relative in relatives}

        def cat() -> Mapping[str, bytes | Exception]:
            got = self.fs.cat(list(paths), on_error="return")
            got = got if isinstance(got, dict) else {next(iter(paths)): got}
            for content in got.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
            return got

        got = self._try(cat, self.url)
        return {paths[path]: content for path, content in got.items() if isinstance(content, bytes)}

    # --- writing ---

    def write(self, relative: str, content: bytes) -> None:
        """A small file, which is replaced where it is there. An error is about the address itself."""
        self._try(lambda: self._whole(relative, lambda path: self.fs.pipe_file(path, content)), self.url)

    def put(self, file: Path, relative: str) -> RemoteFile:
        """A local file, under a name that it gets when all of it is there; as it is there then."""
        size = file.stat().st_size

        def put() -> RemoteFile:
            if self.protocol == "memory":  # its put_file shows a file as it grows
                self.fs.pipe_file(self.at(relative), file.read_bytes())
            else:
                self._whole(relative, lambda path: self.fs.put_file(str(file), path))
            there = self.file(self.at(relative), self.shown(relative))
            if there.size != size:
                raise _Cut(f"{there.size} of {size} bytes are there")
            return there

        return self._try(put, self.shown(relative))

    def rename(self, relative: str, new: str) -> RemoteFile:
        """Give a file another name, which it gets whole; as it is there then. The storage copies it itself."""

        def rename() -> RemoteFile:
            if self.protocol in _WHOLE:
                self.fs.cp_file(self.at(relative), self.at(new))
            else:
                self.fs.makedirs(self.fs._parent(self.at(new)), exist_ok=True)
                self.fs.mv(self.at(relative), self.at(new))
            return self.file(self.at(new), self.shown(new))

        there = self._try(rename, self.shown(new))
        self.remove(relative)
        return there

    def remove(self, relative: str) -> None:
        """Remove a file, if it is there."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(self.at(relative))

        self._try(remove, self.shown(relative))

    def _whole(self, relative: str, write: Callable[[str], object]) -> None:
        """Write by a name of its own, and rename, where the protocol shows files as they grow."""
        final = self.at(relative)
        if self.protocol in _WHOLE:
            write(final)
            return
        import secrets  # not at the start of every run

        folder = self.fs._parent(final)
        unfinished = f"{folder}/.sepcli-{secrets.token_hex(16)}"
        self.fs.makedirs(folder, exist_ok=True)
        try:
            write(unfinished)
            self.fs.mv(unfinished, final)
        except BaseException:
            with contextlib.suppress(Exception):  # it may not be there, and nothing else may
                self.fs.rm_file(unfinished)
            raise

    # --- what goes wrong ---

    def _try(self, call: Callable[[], Found], url: str) -> Found:
        for pause in (*PAUSES, None):
            try:
                return call()
            except (SepcliError, *_OURS):
                raise
            except Exception as error:
                tried = self.protocol in _PATIENT and not isinstance(error, _Cut)
                if pause is None or tried or isinstance(error, _FINAL) or _is_denied(error):
                    raise self._said(error, url) from error
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _said(self, error: Exception, url: str) -> SepcliError:
        """The failure in a sentence."""
        reason = first_line(error)
        kind = OutputError if self.writing else InputError
        can = "written" if self.writing else "read"
        if isinstance(error, FileNotFoundError):
            what = "bucket or folder" if self.writing else "file or bucket"
            return kind(
                f"'{url}' can't be {can}: there is no such {what}.",
                remedy="Check the address: sepcli makes folders, and no buckets."
                if self.writing
                else "Check the address.",
                code="missing",
            )
        if _is_denied(error):
            return kind(
                f"'{url}' can't be {can}: access is denied ({reason}).",
                remedy="Check the credentials and their rights; they are taken from where the storage's own "
                "library looks for them, such as AWS_PROFILE.",
                code="denied",
            )
        if isinstance(error, NotImplementedError):
            return kind(
                f"'{url}' can't be {can}: {self.protocol} has no way to do that in fsspec.",
                remedy="Use another storage.",
                code="not_writable" if self.writing else "unreadable",
            )
        return kind(
            f"'{url}' can't be {can}, after several attempts: {reason}.",
            remedy="Check the network and the storage, then run again: it goes on where it stopped.",
            code="unreachable",
        )


class _Cut(OSError):
    """A transfer ended early."""


def _open(address: str, url: str) -> tuple[Any, str]:
    """The file system of fsspec, and the path of the address there. url: the same as it may be shown."""
    require("fsspec")
    if scheme(url) in ("s3", "s3a"):
        require("s3fs")
    from fsspec.core import url_to_fs

    try:
        # Not one that another run in this process has used: it would know what was there then.
        return url_to_fs(address, skip_instance_cache=True)
    except ImportError as error:
        raise DeviceError(
            f"'{url}' needs a package that is not installed: {first_line(error)}.",
            remedy="Install the package that it names.",
            code="no_filesystem",
        ) from error
    except Exception as error:
        raise UsageError(
            f"'{url}' is no address that can be used: {first_line(error)}.",
            remedy="Give a path, or an address such as s3://bucket/folder, gs://bucket/folder or az://container/folder.",
            code="address",
        ) from error


_opened_again = cache(_open)  # by all copies of a Storage that come into a process, track after track


def _is_denied(error: Exception) -> bool:
    """Whether no attempt would do better, because of who asks: libraries have errors of their own."""
    if isinstance(error, PermissionError):
        return True
    return not isinstance(error, _FINAL) and bool(_DENIED.search(f"{type(error).__name__} {error}"))
