"""Download one file of weights into its place in the cache: from the hub by its client, or from a URL.

Knows what can go wrong on the way, and says each with its remedy. Whether the content is the right one is for
download.py. The hub's variables (HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN) hold; a file appears complete or not at
all.

The hub's client downloads what it can. Two things it can't: resume a download that was killed, and use a mirror
that does not name the commit (X-Repo-Commit), where the hash of the file decides all the same. That is done by
ranged.py, as are downloads from URLs.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import os
import time
import urllib.error
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from sepcli import __version__
from sepcli.errors import DISK_FULL, ModelError, first_line, parameter
from sepcli.weights import partial
from sepcli.weights.cache import hub_cache, hub_home, is_commit, place_of
from sepcli.weights.entries import WeightFile
from sepcli.weights.ranged import BUSY, RETRIES, ByteProgress, complete


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids requests: those to the hub, and to any other source."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _is_offline(file: WeightFile) -> ModelError:
    return ModelError(
        f"{file.filename} ({file.source}) is not in the cache, and HF_HUB_OFFLINE forbids downloads.",
        remedy=f"Unset it, or run `sepcli models download` while online; the cache is '{hub_home()}'.",
        code="offline",
    )


def transfer(file: WeightFile, progress: ByteProgress | None) -> Path:
    """Download the file into its place, and return the path; ModelError says what failed."""
    if file.package:
        raise ModelError(
            f"The package has no file '{file.package}'.", remedy="Install sepcli again.", code="not_found"
        )
    if offline() and not (file.repo and not is_commit(file.revision)):  # what a branch was may be in the cache
        raise _is_offline(file)
    return _hub_download(file, progress) if file.repo else _url_download(file, progress)


def hub_failures() -> tuple[type[Exception], ...]:
    """The exceptions of the hub client that mean a fault of the hub, the network or this machine's disk."""
    from huggingface_hub import errors

    # Whatever the HTTP library of this version is, its errors share this base, which the hub's own
    # extends; naming the library would tie us to one version (httpx in 1.x, httpx2 in 2.x).
    transport = next(base for base in errors.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    assert issubclass(transport, Exception)
    return (errors.EntryNotFoundError, errors.HFValidationError, transport, OSError, RuntimeError)


def _hub_download(file: WeightFile, progress: ByteProgress | None) -> Path:
    """Have the hub client download the file into its cache; the path there."""
    from huggingface_hub import errors, hf_hub_download

    # huggingface_hub 1.0 does not have this parameter, and draws a bar of its own.
    bars = "tqdm_class" in signature(hf_hub_download).parameters
    bar: dict[str, Any] = {"tqdm_class": _bar(progress, file.bytes)} if bars else {}
    failures = hub_failures()
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its retries would be printed across our progress bar
    try:
        _resume_from_hub(file, progress)
        for attempt in range(RETRIES):
            try:
                return Path(
                    hf_hub_download(
                        file.repo or "",
                        file.path or "",
                        revision=file.revision,
                        library_name="sepcli",
                        library_version=__version__,
                        cache_dir=hub_cache(),
                        endpoint=os.environ.get("HF_ENDPOINT") or None,
                        local_files_only=offline(),
                        **bar,
                    )
                )
            except failures as error:
                # The client itself tries again in all other cases; only a busy answer to the request for the
                # content is left to us.
                busy = isinstance(error, errors.HfHubHTTPError) and error.response.status_code in BUSY
                if _names_no_commit(error):
                    return _mirror_download(file, progress)
                if attempt + 1 == RETRIES or not busy:
                    raise _hub_error(file, error) from error
            time.sleep(2**attempt)
        raise AssertionError("the last attempt returns or raises")
    finally:
        logger.setLevel(level)


def _bar(progress: ByteProgress | None, size: int | None) -> type:
    """A tqdm class that draws nothing and reports bytes to `progress`.

    size: of the file in bytes, where the catalogue knows it. The hub's transfer client makes two bars a file,
    one for bytes received and one for bytes written; in newer versions it makes one if the class has
    `update_transfer`. With two, the greater number is reported.
    """
    from tqdm import tqdm

    most = 0

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any):
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            nonlocal most
            self.n += n or 0
            most = max(most, int(self.n))
            if progress is not None:
                progress(most, size or (int(self.total) if self.total else None))

        def update_transfer(self, n: float | None = 1) -> None:
            pass

    return Bar


def _hub_error(file: WeightFile, error: BaseException) -> ModelError:
    """What the hub client raised, as a sentence with its remedy. The order matters: some classes are bases."""
    from huggingface_hub import errors

    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    what = f"{file.filename} of {file.repo}"
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    if offline() and isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return _is_offline(file)
    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"{file.repo} is gated: {what} needs an account that has accepted its terms.",
            remedy=f"Accept them at {endpoint}/{file.repo}, then log in with `hf auth login` or set HF_TOKEN.",
            code="gated",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            f"{endpoint} has no repository '{file.repo}', or it is private.",
            remedy="Check the name; if it is private, log in with `hf auth login` or set HF_TOKEN.",
            code="no_repository",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(
            f"{file.repo} has no revision {file.revision}, where {what} should be.",
            remedy="Correct the revision; if the catalogue pins it, update sepcli or pin another one.",
            code="not_found",
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return ModelError(
            f"{file.repo} has no file '{file.path}' at revision {file.revision}.",
            remedy="Update sepcli, or correct the path in the catalogue.",
            code="not_found",
        )
    if isinstance(error, errors.HFValidationError):
        return ModelError(f"'{file.repo}' is no repository name: {error}", remedy="Write owner/name.")
    if full := _local_failure(error, what):
        return full
    deepest = cause or error
    if isinstance(deepest, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        return _hub_error(file, deepest)
    status = getattr(getattr(deepest, "response", None), "status_code", None)
    if status in (401, 403):
        return ModelError(
            f"{endpoint} refuses {what} ({status}).",
            remedy="Log in with `hf auth login` or set HF_TOKEN; a token that has expired is refused too.",
            code="gated",
        )
    if status is not None:
        return ModelError(
            f"{endpoint} can't deliver {what} now: it answers {status}.",
            remedy=f"Try again in some minutes. {_otherwise()}",
            code="unavailable",
        )
    # The client resumes five times; a size that still differs is an OSError without a number.
    if "Consistency check failed" in str(deepest) or type(deepest).__name__ == "RemoteProtocolError":
        return ModelError(
            f"The download of {what} broke off.", remedy=f"Try again. {_otherwise()}", code="truncated"
        )
    if isinstance(deepest, errors.FileMetadataError):
        return ModelError(
            f"{endpoint} does not answer like a hub when asked for {what}: {deepest}",
            remedy="Check HF_ENDPOINT, and whether a proxy or log-in page stands in between. "
            + _otherwise(mirror=False),
            code="unavailable",
        )
    return ModelError(
        f"{endpoint} can't be reached for {what}: {first_line(deepest)}.",
        remedy=f"Check the network, proxy and HF_ENDPOINT; what is in '{hub_cache()}' already needs none. "
        + _otherwise(),
        code="unreachable",
    )


def _local_failure(error: BaseException, what: str) -> ModelError | None:
    """The sentence for what this machine's disk refused; None where the fault is elsewhere."""
    number = getattr(error, "errno", None)
    if number in DISK_FULL:
        return ModelError(
            f"The disk is full: there is no room for {what} in '{hub_home()}'.",
            remedy="Free some space, or set HF_HOME to a folder on another disk.",
            code="no_space",
        )
    place = getattr(error, "filename", None)  # errors of the file system have both
    if number in (errno.EACCES, errno.EPERM, errno.EROFS) or (number is not None and place is not None):
        place = place or hub_home()
        return ModelError(
            f"'{place}' can't be written, so {what} can't be downloaded.",
            remedy="Correct its permissions, or set HF_HOME to a folder you can write.",
            code="not_writable",
        )
    return None


def _names_no_commit(error: BaseException) -> bool:
    """Whether a server was found that is a hub in all but that it does not say which commit it serves."""
    from huggingface_hub import errors

    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    said = str(cause)  # the second is of versions before 2
    return isinstance(cause, errors.FileMetadataError) and (
        "X-Repo-Commit" in said or "does not seem to be on" in said
    )


def _mirror_download(file: WeightFile, progress: ByteProgress | None) -> Path:
    """Download a pinned file from a mirror by its address, into the hub's cache as the client would."""
    if not (file.sha256 or file.git_sha1) or not is_commit(file.revision):
        endpoint = os.environ.get("HF_ENDPOINT", "")
        raise ModelError(
            f"{endpoint} does not say which commit it serves (it sends no X-Repo-Commit), and no full hash of "
            f"{file.filename} is known that could decide.",
            remedy="Pin the file by commit and sha256 in a catalogue, or unset HF_ENDPOINT.",
            code="unavailable",
        )
    content, place = partial.content_place(file), place_of(file)
    try:
        with _own_part(file) as part:
            complete(part, file, progress)
            os.replace(part, content)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            place.symlink_to(os.path.relpath(content, place.parent))
        except OSError:  # Windows without the right to make links
            os.replace(content, place)
    except (OSError, http.client.HTTPException, EOFError) as error:
        raise _url_error(file, error) from error
    return place


def _resume_from_hub(file: WeightFile, progress: ByteProgress | None) -> None:
    """Complete what a killed download has left, so that the client finds the content in its cache.

    Leaves all to the client where that is not possible.
    """
    left = partial.parts(file) if partial.can_resume(file) else []
    name = left[0].name.partition(".")[0] if left else ""
    if len(name) != 64 or offline():  # only a sha256 names the content for sure
        return
    with partial.locked(left[0]) as ours:
        if not ours or not left[0].exists():
            return
        try:
            complete(left[0], file, progress)
        except (urllib.error.URLError, TimeoutError):  # the client has better words for a hub that refuses
            return
        except (OSError, http.client.HTTPException, EOFError) as error:
            raise _url_error(file, error) from error
        if partial.is_right(left[0], file):
            os.replace(left[0], left[0].with_name(name))
        for part in left:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _own_part(file: WeightFile) -> Iterator[Path]:
    """The path for a download: a part that can be resumed, or, where another process has it, a new one."""
    part = partial.part_of(file)
    part.parent.mkdir(parents=True, exist_ok=True)
    with partial.locked(part) as ours:
        if ours and partial.can_resume(file):
            try:
                yield part
            finally:
                if part.exists() and not part.stat().st_size:
                    part.unlink()
            return
    part = part.with_name(f".{part.name.strip('.')}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _url_download(file: WeightFile, progress: ByteProgress | None) -> Path:
    """Download a URL into its place in the cache, where it appears complete or not at all."""
    place = place_of(file)
    try:
        with _own_part(file) as part:
            if place.exists():  # another process has just finished it
                return place
            complete(part, file, progress)
            os.replace(part, place)
    except (OSError, http.client.HTTPException, EOFError) as error:
        raise _url_error(file, error) from error
    return place


def _url_error(file: WeightFile, error: BaseException) -> ModelError:
    """What a download from a URL met, as a sentence with its remedy."""
    if isinstance(error, urllib.error.HTTPError):
        gone = error.code in (401, 403, 404, 410)
        fact = "is not there" if gone else "is not available now"
        return ModelError(
            f"{file.source} {fact}: the server answers {error.code}.",
            remedy=("Update sepcli, or try again another day. " if gone else "Try again in some minutes. ")
            + _otherwise(mirror=False),
            code="not_found" if gone else "unavailable",
        )
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, BaseException) and (local := _local_failure(reason, file.filename)):
        return local
    if isinstance(error, EOFError | http.client.HTTPException | ConnectionError):
        return ModelError(
            f"The download of {file.source} broke off ({first_line(error)}).",
            remedy=f"Try again. {_otherwise(mirror=False)}",
            code="truncated",
        )
    text = first_line(reason) if isinstance(reason, BaseException) else str(reason)
    return ModelError(
        f"{file.source} can't be reached: {text}.",
        remedy=f"Check the network and proxy. {_otherwise(mirror=False)}",
        code="unreachable",
    )


def _otherwise(*, mirror: bool = True) -> str:
    """How a file is had without this source. mirror: the source is the hub, of which there are others."""
    by_hand = f"{parameter('model', 'NAME=FILE')} takes a file that you got in another way."
    return f"HF_ENDPOINT names a mirror of the hub, and {by_hand}" if mirror else by_hand
