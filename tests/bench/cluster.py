"""What a track costs on Ray besides its separation, and what two workers give: the same files here and there.

    python -m tests.bench.cluster [--files 60] [--seconds 1] [--rounds 3]

Seconds from the first track's begin to the last one's end, as `--progress json` tells them, so that start,
imports and loading are not in it. All ways take turns: here and by one worker, with a thread for each core;
here with one thread, and by as many workers of one thread as there are cores. The second half of the files
counts by itself, too: all workers are there then. The model is the one inside sepcli.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile


def seconds(folder: Path, out: Path, *options: str) -> tuple[float, float, float]:
    """(from the first track to the last, in the second half of the results, of the whole command)."""
    command = [sys.executable, "-m", "sepcli", "separate", str(folder), "-m", "duo", "-o", str(out)]
    began, first, ends = time.monotonic(), 0.0, []
    with subprocess.Popen(
        [*command, "--progress", "json", *options], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            event = json.loads(line)["event"]
            if event == "track":
                first = first or time.monotonic()
            elif event == "result":
                ends.append(time.monotonic())
    assert process.returncode == 0
    return ends[-1] - first, ends[-1] - ends[len(ends) // 2 - 1], time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = str(os.cpu_count())
    ways = {
        "here": ["--threads", cores],
        "ray, 1 worker": ["--threads", cores, "--ray", "local"],
        "here, 1 thread": ["--threads", "1"],
        f"ray, {cores} workers of 1 thread": ["--threads", "1", "--ray", "local"],
    }
    with tempfile.TemporaryDirectory() as place:
        music = Path(place) / "music"
        music.mkdir()
        for number in range(options.files):
            samples = np.random.default_rng(number).uniform(-0.5, 0.5, (int(options.seconds * 44100), 2))
            soundfile.write(music / f"{number:04}.wav", samples, 44100)
        for turn in range(options.rounds):
            for name, given in ways.items():
                tracks, half, whole = seconds(music, Path(place) / f"{name} {turn}", *given)
                each, later = 1e3 * tracks / options.files, 1e3 * half / (options.files - options.files // 2)
                print(
                    f"{name}: {each:.0f} ms a track, {later:.0f} in the second half, {whole:.1f} s in all",
                    flush=True,
                )


if __name__ == "__main__":
    main()
