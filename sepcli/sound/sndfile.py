"""Open files with libsndfile so that every sample is read, and a file that ends early is noticed.

Knows the peculiarities of soundfile and libsndfile, and is used by decode.py alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import soundfile

from sepcli.sound import headers

Error = soundfile.SoundFileError
UNKNOWN_FRAMES = 1 << 62  # from here on a frame count means "unknown"; libsndfile says 2^63 - 1


class Sequential(soundfile.SoundFile):
    """A file that is read straight on.

    After every read of a seekable file, soundfile seeks to where it already is. That restarts Opus decoding in
    mid-stream, which changes samples.
    """

    def seekable(self) -> bool:
        """False, so that soundfile does not seek by itself."""
        return False


@contextmanager
def opened(path: Path) -> Iterator[Sequential]:
    """Open the file for reading.

    By its descriptor where the system allows it: then the name can have any length and encoding, and libsndfile
    guesses nothing from its suffix. A file whose header states a wrong size is opened with the right one.
    """
    with ExitStack() as stack:
        mended = headers.mended(path)
        if mended is not None:
            source: Any = stack.enter_context(closing(mended))
        elif os.name == "nt":
            source = str(path)
        else:
            source = stack.enter_context(path.open("rb")).fileno()
        file = Sequential(source, closefd=False) if isinstance(source, int) else Sequential(source)
        stack.callback(file.close)
        yield file


def frames_before_error(file: soundfile.SoundFile, at: int) -> int:
    """How many frames from frame `at` on a failed read has still delivered."""
    try:
        return max(0, file.tell() - at)
    except Error:
        return 0


# libsndfile corrects what a header states and writes both numbers into its log.
_CORRECTED = re.compile(r"(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)")
# Sizes that programs state when they write to a pipe and can't know the size.
_PLACEHOLDERS = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def missing_end(log: str) -> tuple[str, int]:
    """Why a file is cut short, by libsndfile's log, and how many bytes it lacks; ("", 0): it is not."""
    for stated, there in _CORRECTED.findall(log):
        streamed = any(abs(int(stated) - size) <= 4096 for size in _PLACEHOLDERS)
        if int(there) < int(stated) and not streamed:
            return f"the header states {stated} bytes, {there} are there", int(stated) - int(there)
    if "does not match value from 'ds64'" in log:
        return "the end is missing", 0
    return "", 0
