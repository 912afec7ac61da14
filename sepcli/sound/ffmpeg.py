"""Run ffmpeg, an optional program, for the files that libsndfile can't read or write.

Knows how to find, start and stop it, and how to give it any file name. Its arguments stand where they are
needed (decode.py, encode.py, tags.py). WAV, FLAC, AIFF, CAF, Ogg, Opus and MP3 need no ffmpeg.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

# It never reads the terminal, overwrites the file that we name, and prints errors only.
QUIET = ("-nostdin", "-hide_banner", "-y", "-v", "error")


def find(tool: str = "ffmpeg") -> str | None:
    """The path of `ffmpeg` or `ffprobe`, or None."""
    return shutil.which(tool)


def available() -> bool:
    """Whether ffmpeg and ffprobe are found: reading needs both. Distributions ship them together."""
    return find("ffmpeg") is not None and find("ffprobe") is not None


def url(path: Path) -> str | bytes:
    """`path` as an argument. With `file:` before it, no name is taken for an option or another protocol.

    As bytes where the system has byte names: a name that is not UTF-8 arrives as it is on the disk.
    """
    return "file:" + str(path) if os.name == "nt" else b"file:" + os.fsencode(path)


class Process:
    """A running ffmpeg with a pipe on one side. Its messages go to a temporary file: a pipe could fill up."""

    def __init__(self, arguments: Sequence[str | bytes], *, feed: bool):
        """feed: we write into its standard input; otherwise we read from its standard output."""
        program = find("ffmpeg")
        assert program is not None
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `kill`)
        self._process = subprocess.Popen(
            [program, *QUIET, *arguments],
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if feed else subprocess.PIPE,
            stderr=self._messages,
            # Ctrl-C in the terminal is ours to handle: it must not reach ffmpeg too.
            start_new_session=True,
        )
        pipe = self._process.stdin if feed else self._process.stdout
        assert pipe is not None
        self.pipe: IO[bytes] = pipe

    def finish(self) -> int:
        """Close the pipe, wait, and give the exit status."""
        with suppress(BrokenPipeError):  # it has ended; the status says how
            self.pipe.close()
        return self._process.wait()

    def kill(self) -> None:
        """End it if it still runs, and free what it held."""
        if self._process.poll() is None:
            self._process.kill()
        try:
            self.finish()
        finally:
            self._messages.close()

    def messages(self) -> list[str]:
        """The first lines that it wrote, without the names of its parts ("[aac @ 0x55...]")."""
        self._messages.seek(0)
        return _plain_lines(self._messages.read(4096))


def run(arguments: Sequence[str | bytes], *, feed: bytes = b"") -> tuple[int, bytes, list[str]]:
    """Run it once, with `feed` on its standard input: exit status, standard output, messages."""
    program = find("ffmpeg")
    assert program is not None
    done = subprocess.run(
        [program, *QUIET, *arguments], input=feed, capture_output=True, start_new_session=True, check=False
    )
    return done.returncode, done.stdout, _plain_lines(done.stderr[:4096])


def probe(path: Path) -> dict[str, Any]:
    """What ffprobe says: {"streams": [...], "format": {...}}; {} where it can't open the file."""
    program = find("ffprobe")
    assert program is not None
    wanted = (
        "stream=index,codec_type,codec_name,sample_rate,channels,sample_fmt,bits_per_raw_sample,bits_per_sample"
        ",nb_frames,duration:stream_tags:stream_disposition=attached_pic:format=format_name,duration:format_tags"
    )
    done = subprocess.run(
        [program, "-hide_banner", "-v", "error", "-show_entries", wanted, "-of", "json", url(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        check=False,
    )
    try:
        answer = json.loads(done.stdout.decode("utf-8", "replace"))
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _plain_lines(raw: bytes) -> list[str]:
    lines = []
    for line in raw.decode("utf-8", "replace").splitlines():
        if line.startswith("[") and "] " in line:
            line = line.split("] ", 1)[1]
        if line.strip() and line.strip() not in lines:
            lines.append(line.strip())
    return lines
