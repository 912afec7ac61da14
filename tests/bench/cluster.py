"""What a track costs on Ray besides its separation: the same files here and by one worker of `--ray local`.

    python -m tests.bench.cluster [--files 60] [--seconds 1] [--rounds 3]

Seconds from the first track's begin to the last one's end, as `--progress json` tells them, so that start,
imports and loading are not in it. Both ways have a thread for each core, so that one worker has them all, and
take turns. The model is the one inside sepcli.
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


def seconds(folder: Path, out: Path, *options: str) -> tuple[float, float]:
    """(from the first track to the last, of the whole command)."""
    command = [sys.executable, "-m", "sepcli", "separate", str(folder), "-m", "duo", "-o", str(out)]
    began, times = time.monotonic(), {}
    with subprocess.Popen(
        [*command, "--progress", "json", *options], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            event = json.loads(line)["event"]
            if event == "track":
                times.setdefault("first", time.monotonic())
            elif event == "result":
                times["last"] = time.monotonic()
    assert process.returncode == 0
    return times["last"] - times["first"], time.monotonic() - began


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
    }
    with tempfile.TemporaryDirectory() as place:
        music = Path(place) / "music"
        music.mkdir()
        for number in range(options.files):
            samples = np.random.default_rng(number).uniform(-0.5, 0.5, (int(options.seconds * 44100), 2))
            soundfile.write(music / f"{number:04}.wav", samples, 44100)
        for turn in range(options.rounds):
            for name, given in ways.items():
                tracks, whole = seconds(music, Path(place) / f"{name} {turn}", *given)
                print(
                    f"{name}: {1e3 * tracks / options.files:.0f} ms a track, {whole:.1f} s in all", flush=True
                )


if __name__ == "__main__":
    main()
