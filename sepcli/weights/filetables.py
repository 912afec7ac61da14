"""Where a weight file comes from, and what is known of it, as a catalogue writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from sepcli.system.tables import TableError, at_least
from sepcli.weights.entries import WeightFile

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class SourceTable:
    """Where a file comes from, and what is known of it: exactly one of hf, repo, url and package."""

    hf: str | None = None  # owner/name@revision/path: repo, revision and path in one
    repo: str | None = None  # owner/name, with revision and path
    revision: str | None = None  # 40 hexadecimal digits
    path: str | None = None
    url: str | None = None
    package: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    git_sha1: str | None = None
    sha1: str | None = None
    md5: str | None = None
    mirrors: tuple[str, ...] = ()  # "hf://owner/name@revision/path" or a URL: other places of the same file
    member: str | None = None
    member_sha256: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileTable(SourceTable):
    """[name.files.KEY]"""

    fallback: SourceTable | None = None


def weight_file(name: str, table: SourceTable, where: str) -> WeightFile:
    """One weight file. name: its key in `files`, which its mirrors and its fallback share."""
    table = _spelled(table, where)
    for key in ("repo", "path", "url", "package"):
        if getattr(table, key) == "":
            raise TableError(where, key, "is empty", "Give it a value or leave it out.")
    if table.bytes is not None:
        at_least(1, table.bytes, where, "bytes")
    for key, least, most in (
        ("sha256", 64, 64),
        ("sha256_prefix", 8, 63),
        ("git_sha1", 40, 40),
        ("sha1", 40, 40),
        ("md5", 32, 32),
    ):
        digits = getattr(table, key)
        if digits is not None and not re.fullmatch(f"[0-9a-f]{{{least},{most}}}", digits):
            count = f"{least}" if least == most else f"{least} to {most}"
            raise TableError(where, key, f"is '{digits}', but must be {count} lower-case hexadecimal digits")
    for member, digits in table.member_sha256.items():
        if not re.fullmatch("[0-9a-f]{64}", digits):
            raise TableError(
                f"{where}.member_sha256", member, f"is '{digits}', but must be 64 lower-case hexadecimal digits"
            )
    if table.sha256 and table.sha256_prefix and not table.sha256.startswith(table.sha256_prefix):
        raise TableError(where, "sha256_prefix", "contradicts `sha256`")
    _check_source(name, table, where)
    fallback = table.fallback if isinstance(table, FileTable) else None
    file = WeightFile(
        name=name,
        repo=table.repo,
        revision=table.revision,
        path=table.path,
        url=table.url,
        package=table.package,
        bytes=table.bytes,
        sha256=table.sha256,
        sha256_prefix=table.sha256_prefix,
        git_sha1=table.git_sha1,
        sha1=table.sha1,
        md5=table.md5,
        member=table.member,
        member_sha256=tuple(table.member_sha256.items()),
    )
    mirrors = tuple(_mirror(file, address, where) for address in table.mirrors)
    if mirrors and file.check not in ("full", "sha1", "md5"):
        raise TableError(where, "mirrors", "needs a hash of the whole file", "Give `sha256`, `sha1` or `md5`.")
    return replace(
        file,
        mirrors=mirrors,
        fallback=None if fallback is None else weight_file(name, fallback, f"{where}.fallback"),
    )


def _spelled(table: SourceTable, where: str) -> SourceTable:
    """`hf` as repo, revision and path."""
    if table.hf is None:
        return table
    if (table.repo, table.revision, table.path) != (None, None, None):
        raise TableError(where, "hf", "stands for `repo`, `revision` and `path`; it can't stand beside them")
    return replace(table, hf=None, **_hub_parts(table.hf, where, "hf"))


def _hub_parts(address: str, where: str, key: str) -> dict[str, Any]:
    """ "owner/name@revision/path" -> repo, revision and path, which `_check_source` checks."""
    repo, at, rest = address.partition("@")
    revision, slash, path = rest.partition("/")
    if not at or not slash:
        raise TableError(where, key, f"is '{address}', but must be owner/name@revision/path")
    return {"repo": repo, "revision": revision, "path": path}


def _mirror(file: WeightFile, address: str, where: str) -> WeightFile:
    """The same file, with all that is known of it, in another place."""
    hub = address.removeprefix("hf://")
    place: dict[str, Any] = _hub_parts(hub, where, "mirrors") if hub != address else {"url": address}
    _check_source(file.name, SourceTable(**place), where)
    return replace(
        file, **{"repo": None, "revision": None, "path": None, "url": None, "package": None, **place}
    )


def _check_source(name: str, table: SourceTable, where: str) -> None:
    """Exactly one place, and one that can't change its meaning."""
    if sum(source is not None for source in (table.repo, table.url, table.package)) != 1:
        raise TableError(where, name, "needs exactly one of `hf`, `repo`, `url` and `package`")
    if table.repo is not None:
        if not _REPO.fullmatch(table.repo):
            raise TableError(where, "repo", f"is '{table.repo}', but must be 'owner/name'")
        if not re.fullmatch("[0-9a-f]{40}", table.revision or ""):
            raise TableError(
                where,
                "revision",
                f"is '{table.revision}', but must be a full commit of 40 lower-case hexadecimal digits"
                if table.revision
                else "is missing",
                "A branch or tag can change under its name; the hub shows a file's commit in its history.",
            )
        if not table.path or ".." in table.path.split("/") or table.path.startswith("/"):
            raise TableError(where, "path", f"is {table.path!r}, but must be a file inside the repository")
    elif table.revision is not None or table.path is not None:
        raise TableError(
            where, "path" if table.path else "revision", "belongs to a hub `repo`, which is missing"
        )
    if table.url is not None and not re.match(r"https?://[^/]+/.+", table.url):
        raise TableError(where, "url", f"is '{table.url}', but must be an http or https address of a file")
    if table.package is not None and (".." in table.package.split("/") or table.package.startswith("/")):
        raise TableError(where, "package", f"is '{table.package}', but must be a file inside the package")
