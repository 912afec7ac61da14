"""Fetch the rest of a file over HTTP, by a range request behind what is there already.

Knows nothing of caches. A file that was made of two parts is hashed, where its hash is known: a wrong one is no
failure yet, but a reason to begin again.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from sepcli import __version__
from sepcli.weights import partial
from sepcli.weights.entries import WeightFile

ByteProgress = Callable[[int, int | None], None]  # bytes done, bytes in all (None: not known)

RETRIES = 3  # where the server is busy or the connection breaks
BUSY = (408, 429, 500, 502, 503, 504)  # HTTP answers after which another try may succeed
_BLOCK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without a byte


def complete(part: Path, file: WeightFile, progress: ByteProgress | None) -> None:
    """Download into `part` what it lacks of the file; it is begun again if what comes does not fit.

    Raises what urllib raises (OSError, HTTPException), and EOFError where the line breaks each time.
    """
    resumed = part.exists() and part.stat().st_size > 0
    _rest(part, file, progress)
    if resumed and not partial.is_right(part, file):
        part.unlink()
        _rest(part, file, progress)


def _rest(part: Path, file: WeightFile, progress: ByteProgress | None) -> None:
    """Append to `part` until the file is complete. Tries again where the server is busy or the line breaks."""
    for attempt in range(RETRIES):
        try:
            with part.open("ab") as stream:
                _append(stream, file, progress)
            return
        except (OSError, http.client.HTTPException, EOFError) as error:
            busy = isinstance(error, urllib.error.HTTPError) and error.code in BUSY
            broken = isinstance(error, EOFError | http.client.HTTPException | ConnectionError)
            if attempt + 1 == RETRIES or not (busy or broken):
                raise
            if not partial.can_resume(file):
                part.unlink()
        time.sleep(2**attempt)


def _append(stream: BinaryIO, file: WeightFile, progress: ByteProgress | None) -> None:
    """Ask for the bytes behind those in `stream`; EOFError if they end before the length that was announced."""
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError, OSError):  # the Python of python.org for macOS has no certificates
        import certifi

        context.load_verify_locations(certifi.where())
    start = stream.tell()
    if start and file.bytes is not None and start >= file.bytes:
        return
    url, headers = _address(file)
    request = urllib.request.Request(url)
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT, context=context)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        stream.truncate(0)
        raise EOFError("the server does not have that many bytes") from error
    with response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:  # all of it, whatever was asked
            start = 0
            stream.truncate(0)
        elif not _continues(response.headers, start):
            stream.truncate(0)
            raise EOFError("the server sends another part than was asked for")
        announced = response.headers.get("Content-Length")
        end = start + int(announced) if announced else None
        total = file.bytes or end
        if total is not None and shutil.disk_usage(partial.content_place(file).parent).free < total - start:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = start
        while block := response.read(_BLOCK):
            stream.write(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
        if end is not None and done != end:
            raise EOFError(f"{done} of {end} bytes")


def _continues(headers: Mapping[str, str], start: int) -> bool:
    return headers.get("Content-Range", "").strip().startswith(f"bytes {start}-")


def _address(file: WeightFile) -> tuple[str, dict[str, str]]:
    """Where the file is, and the headers for that server alone: a redirect to another one does not get them."""
    agent = {"User-Agent": f"sepcli/{__version__}"}
    if not file.repo:
        return file.url or "", agent
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(file.repo, file.path or "", revision=file.revision, endpoint=endpoint)
    return url, {**build_hf_headers(), **agent}
