"""What the one process that runs a batch costs, for many tracks: real decisions, claims, names and manifest.

    python -m tests.bench.fleet [--tracks 20000] [--workers 64] [--failing 0.01]

Only the work is not real: a worker writes four files of a few bytes at once, and some fail. So all the time is
that of the process that decides. Then the same command again, which finds all done, and once more after a tenth
of the tracks has lost a stem. Prints milliseconds of processor time a track, memory and the manifest's size.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
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


class Fleet(Alone):
    """Workers that make nothing: whichever is drawn is done next, and some of them fail."""

    size, failing = 64, 0.01

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
            file.write_bytes(b"not a stem")
        levels = {stem: StemLevels(-1.0, -20.0, -14.2, 0.1) for stem in made}
        return number, Made(
            Rendered(made, dict.fromkeys(made, 10), 44100, 44100, 1.0, 0.01, levels=levels), 0.0, "nowhere"
        )

    def abandon(self) -> None:
        self._works.clear()


def megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def separate(music: Path, out: Path) -> None:
    """Run the batch once, and print what it took."""
    before, began, cpu = megabytes(), time.monotonic(), time.process_time()
    request = Request("duo", out, OutputSpec())
    batch = look_up(request, [str(music)], load_catalog(()), AUDIO_SUFFIXES)
    counts = Counter(result.status for result in jobs.run(batch))
    each = 1e3 / sum(counts.values())
    print(
        f"{dict(counts)}: {(time.process_time() - cpu) * each:.2f} ms of processor and "
        f"{(time.monotonic() - began) * each:.2f} ms a track, {megabytes() - before:.0f} MB more",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=Fleet.size)
    parser.add_argument("--failing", type=float, default=Fleet.failing)
    options = parser.parse_args()
    Fleet.size, Fleet.failing = options.workers, options.failing
    jobs._workers = Fleet
    with tempfile.TemporaryDirectory() as place:
        music, out = Path(place) / "music", Path(place) / "out"
        for number in range(options.tracks):
            file = music / f"{number // 100:05}" / f"{number:07}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, np.full(100, number % 30000, np.int16), 44100)
        print(f"{options.tracks} tracks, {megabytes():.0f} MB before the first run")
        separate(music, out)
        manifest = out / MANIFEST_NAME
        lines = manifest.read_bytes().count(b"\n")
        print(f"manifest: {manifest.stat().st_size / 1e6:.1f} MB in {lines} lines")
        before, cpu = megabytes(), time.process_time()
        Manifest(out)
        print(f"opened in {time.process_time() - cpu:.2f} s, {megabytes() - before:.0f} MB above the highest")
        separate(music, out)
        for number in range(0, options.tracks, 10):
            stem = out / "duo" / f"{number // 100:05}" / f"{number:07}" / "bass.wav"
            if stem.exists():
                os.remove(stem)
        separate(music, out)


if __name__ == "__main__":
    main()
