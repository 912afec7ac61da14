"""Open files with libsndfile so that every sample is read, and a file that ends early is noticed.

Knows the peculiarities of soundfile and libsndfile, and is used by decode.py alone.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import soundfile

from sepcli.sound.wav import Unfinished, unfinished

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
def opened(path: Path, *, stream: bool = False) -> Iterator[Sequential]:
    """Open the file for reading.

    By its descriptor where the system allows it: then the name can have any length and encoding, and libsndfile
    guesses nothing from its suffix. stream: through a pipe, so that libsndfile can't estimate the length.
    """
    with ExitStack() as stack:
        if stream:
            source: Any = stack.enter_context(_as_pipe(path))
        elif os.name == "nt":
            source = str(path)
        else:
            source = stack.enter_context(path.open("rb")).fileno()
        file = Sequential(source, closefd=False) if isinstance(source, int) else Sequential(source)
        stack.callback(file.close)
        if file.frames == 0 and file.format in ("WAV", "WAVEX"):
            offset = unfinished(path)
            if offset is not None:
                raw = stack.enter_context(closing(Unfinished(path, offset)))
                file = stack.enter_context(Sequential(raw))  # pyright: ignore[reportArgumentType]  (has a file's methods)
        yield file


@contextmanager
def _as_pipe(path: Path) -> Iterator[int]:
    """The file's bytes through a pipe: the descriptor to read from."""
    read, write = os.pipe()

    def pump() -> None:
        try:
            with open(write, "wb", buffering=0) as sink, path.open("rb") as source:
                shutil.copyfileobj(source, sink)
        except OSError:
            pass  # the reader has closed its end, or the disk fails: then the file ends here

    thread = threading.Thread(target=pump, name="sepcli-pipe", daemon=True)
    thread.start()
    try:
        yield read
    finally:
        os.close(read)
        thread.join()


def mp3_length_is_guessed(path: Path) -> bool:
    """Whether libsndfile can only guess the length of an MP3: it has no Xing, Info or VBRI header.

    It takes the first frame's bit rate for all, and ends a file of variable bit rate too early (or late).
    Through a pipe it knows no file size, guesses nothing, and decodes to the end. A file with such a header is
    better read directly: libsndfile then knows the encoder's delay and padding, too.
    """
    if os.name == "nt":  # descriptors do not cross between C runtimes there
        return False
    try:
        with opened(path, stream=True) as file:
            return file.frames >= UNKNOWN_FRAMES
    except Error:
        return False


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


def missing_end(log: str) -> str:
    """The reason from libsndfile's log why a file is cut short; "" where the log names none."""
    for stated, there in _CORRECTED.findall(log):
        streamed = any(abs(int(stated) - size) <= 4096 for size in _PLACEHOLDERS)
        if int(there) < int(stated) and not streamed:
            return f"its header states {stated} bytes, {there} are there"
    if "lacks an end-of-stream bit" in log or "does not match value from 'ds64'" in log:
        return "its end is missing"
    return ""
