"""Makes the FLACs beside it: what `mini` makes of two seconds of the repository's clip.

    python -m tests.golden.mini.make

Run it only when the weights of `mini` change, and listen to the result: these files prove that its stems are
what their names say. They hold 18 bits, in FLACs of 24: rounding is 77 dB below the quietest of the stems.
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
BITS = 18


def separated() -> dict[str, NDArray[np.float32]]:
    """{stem: [C, T]} of those two seconds, separated by themselves on the CPU in float32."""
    mix, samplerate = soundfile.read(CLIP, FRAMES, START, dtype="float32", always_2d=True)
    return sepcli.separate("mini", mix.T, samplerate, device="cpu", precision="float32")


if __name__ == "__main__":
    for name, stem in separated().items():
        rounded = np.round(stem * 2 ** (BITS - 1)) / 2 ** (BITS - 1)
        soundfile.write(HERE / f"{name}.flac", rounded.T, 44100, "PCM_24", compression_level=1.0)
