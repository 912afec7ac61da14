"""Run FluidSynth: a MIDI file and a SoundFont in, audio out. Knows nothing of songs.

FluidSynth is a program of its own (LGPL). It runs as a subprocess, faster than real time, and is never linked.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile

from sepcli.errors import DeviceError, OutputError

_INSTALL = (
    "Install it: `apt install fluidsynth` (Debian, Ubuntu), `brew install fluid-synth` (macOS), or see "
    "https://www.fluidsynth.org."
)


def find_fluidsynth() -> str:
    """The path of the program. DeviceError where it is not installed."""
    found = shutil.which("fluidsynth")
    if found is None:
        raise DeviceError(
            "FluidSynth is not installed, and it renders the instruments.",
            remedy=_INSTALL,
            code="no_fluidsynth",
        )
    return found


def synthesise(
    midi: Path,
    soundfont: Path,
    *,
    samplerate: int,
    frames: int,
    room_size: float = 0.2,
    damping: float = 0.3,
    width: float = 0.5,
    reverb: float = 0.7,
    chorus: float = 1.0,
) -> np.ndarray:
    """Play a MIDI file: float32 [2, frames], cut or padded with silence at the end. OutputError.

    room_size, damping (0 to 1), width (0 to 100) and reverb (its level, 0 to 1) shape the reverb that the file
    sends to; chorus is the level of the chorus.
    """
    wave = midi.with_suffix(".wav")
    settings = {
        "synth.dynamic-sample-loading": 1,  # loads only what the file uses: 0.2 s for a SoundFont of 150 MB
        "synth.reverb.room-size": round(room_size, 3),
        "synth.reverb.damp": round(damping, 3),
        "synth.reverb.width": round(width, 3),
        "synth.reverb.level": round(reverb, 3),
        "synth.chorus.level": round(chorus, 3),
        "synth.polyphony": 256,
    }
    command = [find_fluidsynth(), "-niq", "-g", "0.5", "-r", str(samplerate), "-T", "wav", "-O", "float"]
    for name, value in settings.items():
        command += ["-o", f"{name}={value}"]
    command += ["-F", str(wave), str(soundfont), str(midi)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode != 0 or not wave.exists():
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise OutputError(
            f"FluidSynth could not render {midi.name} with {soundfont.name}: it ended with "
            f"{done.returncode} and said: {said}.",
            remedy="Check the free space, and the SoundFont with `fluidsynth SOUNDFONT`.",
            code="fluidsynth",
        )
    audio, _ = soundfile.read(wave, dtype="float32", always_2d=True)
    wave.unlink()
    audio = audio[:frames].T
    return np.pad(audio, ((0, 0), (0, frames - audio.shape[1])))
