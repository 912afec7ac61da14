"""Makes the FLACs beside it: what `duo` makes of two seconds of the repository's clip.

    python -m tests.golden.duo.make

Run it only when the weights of `duo` change, and listen to the result: these files prove that its stems are
what their names say. They hold 18 bits, the vocals 24, in FLACs of 24: rounding is 66 dB or more below a stem.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

import sepcli

HERE = Path(__file__).resolve().parent
CLIP = HERE.parents[1] / "data" / "feelings.flac"
START, FRAMES = 44100, 2 * 44100  # from 0:01; drums, bass, guitars and a melody in place of a voice
BITS = {"vocals": 24}  # nobody sings here: what the network takes for a voice is at -82 dBFS


def separated() -> dict[str, NDArray[np.float32]]:
    """{stem: [C, T]} of those two seconds, separated by themselves on the CPU in float32."""
    mix, samplerate = soundfile.read(CLIP, FRAMES, START, dtype="float32", always_2d=True)
    return sepcli.separate("duo", mix.T, samplerate, device="cpu", precision="float32")


if __name__ == "__main__":
    for name, stem in separated().items():
        steps = 2 ** (BITS.get(name, 18) - 1)
        rounded = np.round(stem * steps) / steps
        soundfile.write(HERE / f"{name}.flac", rounded.T, 44100, "PCM_24", compression_level=1.0)
