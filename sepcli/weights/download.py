"""From a weight file of the catalogue to a path on this machine whose content was checked.

A WeightFile goes in; a path and its SHA-256 come out. Knows nothing of models, and not how a file is downloaded
(transfer.py).

The hub client checks sizes only: it does not notice bytes that were corrupted on the way, or on the disk. So
every file is hashed after its download and at its first use; the hash is remembered by path, size and
modification time. A file of which no full hash was published is trusted once: its hash is recorded then, and
enforced from then on. Each remembered hash and each record is a small file of its own, replaced atomically, so
that processes never wait for each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepcli.errors import ModelError, Notice, from_os
from sepcli.system.files import atomic_write, content_sha256
from sepcli.weights import partial
from sepcli.weights.archive import member_sha256
from sepcli.weights.cache import find, hub_home, is_commit, own_folder, place_of
from sepcli.weights.entries import Entry, WeightFile
from sepcli.weights.modelspec import INDEX

if TYPE_CHECKING:
    from sepcli.weights.transfer import ByteProgress


@dataclass(frozen=True)
class Fetched:
    """A file whose content was checked."""

    path: Path
    sha256: str
    check: str  # WeightFile.check of the source that was used
    source: str  # hf://owner/name@commit/path, the URL, or package:path
    member: str | None = None  # of an archive: the WeightFile's


def cached(file: WeightFile) -> Path | None:
    """The path of the file, of a mirror's or its fallback's, if it is on this machine; no request, no check."""
    return next((place for source in file.sources if (place := find(source))), None)


def is_cached(file: WeightFile) -> bool:
    """Whether the file is on this machine, from whichever source: downloaded, or part of the package."""
    return cached(file) is not None


def cost_text(entry: Entry, targets: Collection[str] = ()) -> str:
    """What it costs to try a model for these stems (() for all): "84 MB", or "on this machine"."""
    missing = [file for file in entry.files_for(targets or None) if not is_cached(file)]
    if not missing:
        return "on this machine"
    sizes = [file.about_bytes for file in missing]
    return (
        "unknown size" if None in sizes else f"{sum(size for size in sizes if size is not None) / 1e6:.0f} MB"
    )


def destination(file: WeightFile) -> Path:
    """The path of the file: where it is, or where its download would put it."""
    return cached(file) or place_of(file)


def fetch(
    file: WeightFile, *, progress: ByteProgress | None = None, notice: Notice = lambda text: None
) -> Fetched:
    """The checked file, downloaded if it is not cached; ModelError says what failed and what to do."""
    for source in file.sources:
        if find(source):
            if source is not file:
                notice(f"Using the copy of {file.filename} that came from another source, {source.source}")
            return _checked(source, notice)
    failed: list[ModelError] = []
    for source in file.sources:
        if failed:
            notice(f"{failed[-1].message} Taking the next source instead: {source.source}")
        try:
            return _checked_download(source, progress, notice)
        except ModelError as error:
            # Wrong content is no reason to look elsewhere: the user must see it.
            if error.code in ("hash", "offline", "no_space", "not_writable", "no_home"):
                raise
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    last = failed[-1]
    hub = any(source.repo for source in file.sources)
    raise ModelError(
        f"All {len(failed)} sources of {file.filename} failed. "
        + " ".join(f"{number}: {error.message}" for number, error in enumerate(failed, 1)),
        remedy=f"{last.remedy} HF_ENDPOINT names a mirror of the hub." if hub else last.remedy,
        code=last.code,
    ) from last


def fetch_hf(
    repo: str,
    revision: str | None,
    path: str,
    *,
    progress: ByteProgress | None = None,
    notice: Notice = lambda text: None,
) -> Fetched:
    """A checked file of any hub repository. revision: None is "main". `source` then names the commit."""
    file = WeightFile(path.rsplit("/", 1)[-1], repo=repo, revision=revision or "main", path=path)
    if is_commit(file.revision):
        return fetch(file, progress=progress, notice=notice)
    # Only the hub (or, offline, its cache) knows which commit a branch or tag means now. The client returns the
    # path .../snapshots/<commit>/<path>.
    from sepcli.weights.transfer import transfer

    commit = transfer(file, progress).parents[path.count("/")].name
    notice(f"{repo} at '{file.revision}' is commit {commit}.")
    return _checked(replace(file, revision=commit), notice)


def verify(file: WeightFile) -> Fetched:
    """Hash the cached file again, and forget its remembered hash; ModelError if it is absent or wrong."""
    source = next((source for source in file.sources if find(source)), None)
    if source is None:
        raise ModelError(f"{file.filename} is not in the cache.", code="not_cached")
    if memo := _memo(place_of(source)):
        memo.unlink(missing_ok=True)
    return _checked(source, lambda text: None)


def remove(file: WeightFile) -> int:
    """Delete the downloaded file and its fallback, also unfinished ones, never one of the package.

    The bytes that this freed, 0 where there was nothing.
    """
    freed = 0
    for source in file.sources:
        if not (source.repo or source.url):
            continue
        freed += partial.discard(source)
        place = place_of(source)
        if os.path.lexists(place):
            freed += (place.stat() if place.exists() else place.lstat()).st_size
            _discard(place)
        elif source.url:
            with contextlib.suppress(OSError):  # something else is in it, or it is not there
                place.parent.rmdir()
    return freed


def file_sha256(path: Path) -> str:
    """The SHA-256 of any file, remembered by its path, size and modification time."""
    return _digest(Path(path), "sha256")


def checkpoint_sha256(path: Path) -> str:
    """The SHA-256 of a local checkpoint; where it is made of several files, that of all their hashes."""
    if path.suffix != INDEX:
        return file_sha256(path)
    from sepcli.weights.bundlefiles import bundle_files  # loads torch

    try:
        files = [file for file in bundle_files(path) if file.is_file()]
    except (ValueError, IndexError):  # damaged, which loading will say
        return file_sha256(path)
    return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()


# --- hashes ---

_KINDS = ("sha256", "git_sha1", "sha1", "md5")  # of whole files


def _memo(path: Path) -> Path | None:
    """The small file with a file's remembered hashes; None without a home folder to keep it in."""
    try:
        return own_folder("hashes", os.path.realpath(path)).with_suffix(".json")
    except ModelError:
        return None


def _digest(path: Path, kind: str) -> str:
    """A file's hash, in hexadecimal.

    kind: one of _KINDS, "git_sha1" being the id that git and the hub give it; else the path of a file in an
    archive.
    """
    before = path.stat()
    stamp = [os.path.realpath(path), before.st_size, before.st_mtime_ns]
    memo = _memo(path)
    known = _read_json(memo) if memo else {}
    digests = known.get("digests", {}) if known.get("stamp") == stamp else {}
    if kind not in digests:
        if kind == "sha256":
            digests[kind] = content_sha256(path)
        elif kind in _KINDS:
            digests[kind] = _older_hash(path, kind, before.st_size)
        else:
            digests[kind] = member_sha256(path, kind)
        after = path.stat()
        if memo and (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            with contextlib.suppress(OSError):  # without a cache to write to, each use costs a hash: no more
                _write_json(memo, {"stamp": stamp, "digests": digests})
    return digests[kind]


def _older_hash(path: Path, kind: str, size: int) -> str:
    """The SHA-1 or MD5 of a file, or its id as a git blob. size: of the file, in bytes."""
    start = hashlib.new("md5" if kind == "md5" else "sha1", usedforsecurity=False)
    if kind == "git_sha1":
        start.update(b"blob %d\0" % size)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: start).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with atomic_write(path, shared=True) as beside:
        beside.write_text(json.dumps(value), encoding="utf-8", errors="surrogateescape")


def _record(source: str, sha256: str) -> dict[str, str]:
    """The record of the first download of `source`, made now if this is the first. It is never overwritten."""
    place = own_folder("recorded", source).with_suffix(".json")
    if known := _read_json(place):
        return known
    record = {"source": source, "sha256": sha256, "date": time.strftime("%Y-%m-%d")}
    with contextlib.suppress(OSError):
        _write_json(place, record)
    return {**record, "new": "yes"}


def _checked(file: WeightFile, notice: Notice) -> Fetched:
    """Compare the cached file with all that is known of it; a wrong one is deleted, and that is said."""
    place = place_of(file)
    known = [(file.sha256, "sha256"), (file.sha256_prefix, "sha256"), (file.git_sha1, "git_sha1")]
    known += [(file.sha1, "sha1"), (file.md5, "md5")]
    known += [(digits, member) for member, digits in file.member_sha256]
    try:
        size, sha256 = place.stat().st_size, _digest(place, "sha256")
        if file.bytes is not None and size != file.bytes:
            raise _wrong(file, f"it has {size} bytes instead of {file.bytes}")
        for wanted, kind in known:
            if wanted is not None and not (digest := _digest(place, kind)).startswith(wanted):
                what = f"its {kind}" if kind in _KINDS else f"the sha256 of its {kind}"
                raise _wrong(file, f"{what} is {digest or 'none'} instead of {wanted}")
    except OSError as error:
        raise from_os(error, place, reading=ModelError) from error
    # The hub's cache names large files by the sha256 that the server announced.
    announced = os.path.basename(os.readlink(place)) if place.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", announced) and announced != sha256:
        raise _wrong(file, f"its sha256 is {sha256}, but the server announced {announced}")
    if file.check != "full" and not file.package:
        record = _record(file.source, sha256)
        if record["sha256"] != sha256:
            where = own_folder("recorded", file.source).with_suffix(".json")
            raise _wrong(
                file,
                f"its sha256 is {sha256}, but the file downloaded first, on {record['date']}, had "
                f"{record['sha256']}",
                f"If the new file is the right one, delete the record '{where}' and try again.",
            )
        notice(_unsure(file, sha256, record))
    return Fetched(place, sha256, file.check, file.source, file.member)


def _unsure(file: WeightFile, sha256: str, record: dict[str, str]) -> str:
    """The notice about a file of which no full hash was published."""
    known = {
        "sha1": "only its SHA-1, a weak hash, is published",
        "md5": "only its MD5, a weak hash, is published",
        "prefix": f"only the first {len(file.sha256_prefix or '')} digits of its hash are published",
        "size": "only its size is published, no hash",
        "none": "no hash and no size of it is published",
    }[file.check]
    agrees = (
        f"its full hash {sha256[:16]}... is recorded now and enforced from now on"
        if "new" in record
        else f"it is the file recorded on {record['date']} ({sha256[:16]}...)"
    )
    return f"{file.filename}: {known}; {agrees}."


def _wrong(file: WeightFile, what: str, remedy: str = "") -> ModelError:
    """Delete a file with wrong content; the error that says so. what: the difference."""
    place = place_of(file)
    if file.package:
        return ModelError(
            f"{file.filename} inside the package is damaged: {what}.",
            remedy="Install sepcli again.",
            code="hash",
        )
    try:
        _discard(place, shared=True)
        deleted = "It was deleted."
    except OSError as error:
        deleted = f"It could not be deleted ({error.strerror}): remove '{place}'."
    return ModelError(
        f"{file.filename} from {file.source} is not the file it should be: {what}. {deleted}",
        remedy=remedy or "Download it again; if that fails the same way, the source or a proxy alters it.",
        code="hash",
    )


def _checked_download(file: WeightFile, progress: ByteProgress | None, notice: Notice) -> Fetched:
    from sepcli.weights.transfer import transfer  # not for a file that is here

    transfer(file, progress)
    return _checked(file, notice)


def _discard(place: Path, *, shared: bool = False) -> None:
    """Delete a cached file: in the hub's cache, the link and the content that it points to.

    Another revision may point to the same content, which is then kept; not with `shared`, where the content is
    wrong for all of them.
    """
    chain = [place]
    while chain[-1].is_symlink():
        chain.append(chain[-1].parent / os.readlink(chain[-1]))
    if memo := _memo(place):
        with contextlib.suppress(OSError):
            memo.unlink()
    snapshots = next((folder for folder in place.parents if folder.name == "snapshots"), None)
    content = os.path.realpath(place)
    place.unlink(missing_ok=True)
    wanted = (
        not shared
        and snapshots is not None
        and any(os.path.realpath(other) == content for other in snapshots.rglob("*") if other.is_symlink())
    )
    for link in [] if wanted else chain[1:]:
        link.unlink(missing_ok=True)
    for folder in place.parents:  # leave no empty folders behind, up to the repository's or the URL's own
        if folder in (snapshots, hub_home() / "sepcli" / "urls"):
            break
        try:
            folder.rmdir()
        except OSError:
            break
