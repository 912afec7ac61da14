"""Downloads that were cut off, as by a kill: where their parts stand in the cache, and which are free to take.

Makes no request. A part is the beginning of a file; ranged.py fetches the rest of it.

    hub      blobs/<id>.<random>.incomplete in the repository's folder; the client never takes one up again
    url      .<file name>.incomplete beside the file, and hidden files of downloads that can't be resumed

<id> is the server's name of the content, for large files its sha256. Each part has a lock, which its download
holds: the client's own for the hub.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sepcli.system.files import NO_LOCKS, content_sha256
from sepcli.weights.cache import hub_cache, hub_home, place_of
from sepcli.weights.entries import WeightFile

_SUFFIX = ".incomplete"


def parts(file: WeightFile) -> list[Path]:
    """What unfinished downloads have left of this file, the largest first.

    Of a file without a published hash, what they have left in its whole repository: nobody else can tell.
    """
    if file.repo:
        known = (file.sha256, file.sha256_prefix, file.git_sha1)
        found = [
            path
            for path in _folder(file).glob(f"*{_SUFFIX}")
            if not any(known) or any(digest and path.name.startswith(digest) for digest in known)
        ]
    elif file.url:
        found = list(place_of(file).parent.glob(".*"))
    else:
        found = []
    sizes = {}
    for path in found:
        with contextlib.suppress(OSError):  # its download has just ended
            sizes[path] = path.stat().st_size
    return sorted(sizes, key=lambda path: sizes[path], reverse=True)


def part_of(file: WeightFile) -> Path:
    """The part in which our own download of the file goes on."""
    place = content_place(file)
    return place.with_name(f"{place.name}.sepcli{_SUFFIX}" if file.repo else f".{place.name}{_SUFFIX}")


def content_place(file: WeightFile) -> Path:
    """Where the content of the file belongs. In the hub's cache that is a blob, to which links point."""
    return _folder(file) / (file.sha256 or file.git_sha1 or "") if file.repo else place_of(file)


def can_resume(file: WeightFile) -> bool:
    """Whether enough is known of the file to notice that two parts do not belong together."""
    return bool(file.sha256 or file.sha256_prefix)


def is_right(path: Path, file: WeightFile) -> bool:
    """Whether the sha256 of the content at `path` is the file's, as far as it is known."""
    return content_sha256(path).startswith(file.sha256 or file.sha256_prefix or "")


@contextmanager
def locked(part: Path) -> Iterator[bool]:
    """Whether nobody else works on this part, now and until the block ends. False where locks are unknown."""
    from filelock import FileLock

    lock = FileLock(_lock(part), timeout=0, mode=0o664)
    try:
        _lock(part).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except NO_LOCKS:  # Timeout, too
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def discard(file: WeightFile) -> int:
    """Delete the file's parts, but those on which another process works; the bytes that this freed."""
    freed = 0
    for part in parts(file):
        with locked(part) as ours:
            if ours:
                freed += part.stat().st_size
                part.unlink(missing_ok=True)
    return freed


def _folder(file: WeightFile) -> Path:
    return hub_cache() / ("models--" + (file.repo or "").replace("/", "--")) / "blobs"


def _lock(part: Path) -> Path:
    if part.parent.name == "blobs":
        repository = part.parents[1]
        return repository.parent / ".locks" / repository.name / f"{part.name.partition('.')[0]}.lock"
    return hub_home() / "sepcli" / "locks" / f"{part.parent.name}.lock"
