"""libsndfile as it has to be opened to get every sample of a file, and to know when a file ends early.

Knows the peculiarities of soundfile and libsndfile; nothing of what the samples are for. `decode.py` is what
everybody else uses.
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
    """soundfile seeks to where it already is after every read of a seekable file.

    That restarts Opus decoding in mid-stream, which changes samples; reading straight on does not.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def opened(path: Path, *, stream: bool = False) -> Iterator[Sequential]:
    """The file under libsndfile, for reading.

    By descriptor where the system has them: any name, of any length or encoding, and no guess from the
    suffix. stream: through a pipe, so that libsndfile can't estimate the length.
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
                file = stack.enter_context(Sequential(raw))
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
    """An MP3 without a Xing, Info or VBRI header: libsndfile takes the first frame's bit rate for all.

    It would then end a file of variable bit rate too early (or late). Through a pipe it knows no file size,
    guesses nothing, and decodes to the end. With such a header the file itself is better: it then knows the
    encoder's delay and padding, too.
    """
    if os.name == "nt":  # descriptors do not cross between C runtimes there
        return False
    try:
        with opened(path, stream=True) as file:
            return file.frames >= UNKNOWN_FRAMES
    except Error:
        return False


def frames_before_error(file: soundfile.SoundFile, at: int) -> int:
    """How many frames a read that failed has delivered from frame `at` on: where libsndfile stopped."""
    try:
        return max(0, file.tell() - at)
    except Error:
        return 0


# libsndfile corrects what a header states and writes both numbers into its log.
_CORRECTED = re.compile(r"(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)")
# What programs that write to a pipe state as a size because they can't know it.
_PLACEHOLDERS = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def missing_end(log: str) -> str:
    """What libsndfile's log says of a file that is cut short; "" where it says nothing of the kind."""
    for stated, there in _CORRECTED.findall(log):
        streamed = any(abs(int(stated) - size) <= 4096 for size in _PLACEHOLDERS)
        if int(there) < int(stated) and not streamed:
            return f"its header states {stated} bytes, {there} are there"
    if "lacks an end-of-stream bit" in log or "does not match value from 'ds64'" in log:
        return "its end is missing"
    return ""
