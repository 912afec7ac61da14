"""What the one process that runs a batch costs, for many tracks: real decisions, claims, names and manifest.

    python -m tests.bench.fleet [--tracks 20000] [--workers 64] [--failing 0.01] [--place DIR]

Only the work is not real: a worker gives four files of a few bytes at once, and some fail. So all the time is
that of the process that decides. Then the same command again, which finds all done, and once more after a tenth
of the tracks has lost a stem. Prints milliseconds of processor time a track, memory and the manifest's size.
With --place all is kept there, and a command that was killed goes on, as a batch does.

Inputs and stems are hard links of few files, so that a million tracks fit on a disk: a folder a track is left,
and the manifest. Memory is counted on Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from sepcli.batch import jobs
from sepcli.batch.manifest import MANIFEST_NAME, Manifest
from sepcli.batch.model import Model
from sepcli.batch.outputspec import OutputSpec
from sepcli.batch.request import Request, look_up
from sepcli.batch.results import Listener
from sepcli.batch.track import Rendered
from sepcli.batch.worker import Alone, Made, Work
from sepcli.errors import DeviceError
from sepcli.sound.measures import StemLevels
from sepcli.sound.suffixes import AUDIO_SUFFIXES
from sepcli.weights.catalog import load_catalog

LINKS = 30_000  # of one file: ext4 allows 65,000
TOLD = 100_000  # tracks


class Fleet(Alone):
    """Workers that make nothing: whichever is drawn is done next, and some of them fail."""

    size, failing = 64, 0.01
    links: Links

    def __init__(self, model: Model, listener: Listener):
        super().__init__(model, listener)
        self._draw, self._works = random.Random(0), dict[int, Work]()

    def load(self, stems: object, tracks: int) -> None:
        pass

    @property
    def has_room(self) -> bool:
        return len(self._works) < self.size

    def give(self, number: int, work: Work) -> None:
        self._works[number] = work

    def take(self) -> tuple[int, Made | Exception]:
        number = self._draw.choice(tuple(self._works))
        work = self._works.pop(number)
        if self._draw.random() < self.failing:
            return number, DeviceError("Its worker died 3 times.", code="worker_died")
        made = {stem: work.folder / f"{stem}.wav" for stem in work.stems.files}
        for file in made.values():
            self.links.write(file)
        levels = {stem: StemLevels(-1.0, -20.0, -14.2, 0.1) for stem in made}
        return number, Made(
            Rendered(made, dict.fromkeys(made, 10), 44100, 44100, 1.0, 0.01, levels=levels), 0.0, "nowhere"
        )

    def abandon(self) -> None:
        self._works.clear()


class Links:
    """Files of one content that take no room."""

    def __init__(self, folder: Path, content: bytes):
        self._folder, self._content, self._count = folder, content, 0
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, file: Path) -> None:
        original = self._folder / f"{os.getpid()}-{self._count // LINKS}"
        if self._count % LINKS == 0:
            original.write_bytes(self._content)
        os.link(original, file)
        self._count += 1


def megabytes(key: str) -> float:
    """VmRSS: the memory that this process has; VmHWM: the most it has had since `forget_highest`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(key))


def forget_highest() -> None:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def separate(music: Path, out: Path) -> None:
    """Run the batch once, and print what it took."""
    forget_highest()
    before, began, cpu = megabytes("VmRSS"), time.monotonic(), time.process_time()
    request = Request("duo", out, OutputSpec())
    batch = look_up(request, [str(music)], load_catalog(()), AUDIO_SUFFIXES)
    counts = Counter[str]()

    def told() -> None:
        each = 1e3 / counts.total()
        print(
            f"{dict(counts)}: {(time.process_time() - cpu) * each:.2f} ms of processor and "
            f"{(time.monotonic() - began) * each:.2f} ms a track, {megabytes('VmHWM') - before:.0f} MB more",
            flush=True,
        )

    for result in jobs.run(batch):
        if not counts:
            print(f"the first result after {time.process_time() - cpu:.0f} s of processor", flush=True)
        counts[result.status] += 1
        if counts.total() % TOLD == 0:
            told()
    told()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=Fleet.size)
    parser.add_argument("--failing", type=float, default=Fleet.failing)
    parser.add_argument("--place", type=Path, help="a folder for all of it")
    options = parser.parse_args()
    Fleet.size, Fleet.failing = options.workers, options.failing
    jobs._workers = Fleet
    jobs.check_space = lambda folder, needed: None  # the links need none of it
    kept = None if options.place is None else contextlib.nullcontext(options.place)
    with kept or tempfile.TemporaryDirectory() as name:
        place = Path(name)
        music, out = place / "music", place / "out"
        Fleet.links = Links(place / "stems", b"not a stem")
        wave = io.BytesIO()
        soundfile.write(wave, np.zeros(100, np.int16), 44100, format="WAV")
        inputs = Links(place / "inputs", wave.getvalue())
        for number in range(0 if music.exists() else options.tracks):
            file = music / f"{number // 100:05}" / f"{number:07}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            inputs.write(file)
        print(f"{options.tracks} tracks, {megabytes('VmRSS'):.0f} MB before the first run", flush=True)
        separate(music, out)
        manifest = out / MANIFEST_NAME
        lines = manifest.read_bytes().count(b"\n")
        print(f"manifest: {manifest.stat().st_size / 1e6:.1f} MB in {lines} lines")
        forget_highest()
        before, cpu = megabytes("VmRSS"), time.process_time()
        Manifest(out)
        print(
            f"opened in {time.process_time() - cpu:.2f} s, with {megabytes('VmHWM') - before:.0f} MB",
            flush=True,
        )
        separate(music, out)
        for number in range(0, options.tracks, 10):
            stem = out / "duo" / f"{number // 100:05}" / f"{number:07}" / "bass.wav"
            if stem.exists():
                os.remove(stem)
        separate(music, out)


if __name__ == "__main__":
    main()
