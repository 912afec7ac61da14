"""How a mono model should take a stereo file: each channel by itself, or middle and side.

    sepcli dataset render SONGS --hours 0.3 --stems slakh --samplerate 22050
    python -m tests.bench.stereo --model MODEL --data SONGS

    channels    L, R -> stems of each                                  as sepcli separates
    mid/side    M = (L + R) / 2, S = (L - R) / 2 -> stems of each      L = M + S, R = M - S of every stem

Both go through the engine, with the same noise. SI-SDR of a stem over a whole track and both channels together:
the mean over the tracks that have the stem, and half the 95 % interval of the difference.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import sepcli
from sepcli.data.layouts import StemTrack, find_tracks
from sepcli.engine.separator import Separator
from sepcli.errors import InputError
from sepcli.metrics.interval import half_width
from tests.bench import results
from tests.bench.conditioning import FLOOR, HEARD, si_sdr
from tests.bench.results import Figure, Record

Stems = Mapping[str, np.ndarray]  # [2, T]
WAYS = ("channels", "mid/side")


def rotated(audio: np.ndarray) -> np.ndarray:
    """L, R -> M, S: [2, T]."""
    return np.stack([audio[0] + audio[1], audio[0] - audio[1]]) / 2


def both_ways(model: Separator, mix: np.ndarray, rate: int, device: str) -> dict[str, Stems]:
    """mix [2, T] -> {way: stems}."""
    middle = sepcli.separate(model, rotated(mix), rate, device=device)
    return {
        "channels": sepcli.separate(model, mix, rate, device=device),
        "mid/side": {name: 2 * rotated(stem) for name, stem in middle.items()},
    }


def read(track: StemTrack) -> tuple[dict[str, np.ndarray], int]:
    """A track's stems, cut to the length of the shortest."""
    import soundfile

    stems = {}
    for name, path in track.stems.items():
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        if audio.shape[1] != 2:
            raise InputError(f"'{path}' has {audio.shape[1]} channels.", remedy="Give tracks in stereo.")
        stems[name] = audio.T
    length = min(stem.shape[1] for stem in stems.values())
    return {name: stem[:, :length] for name, stem in stems.items()}, rate


def bench(model: Separator, tracks: Sequence[StemTrack], *, device: str = "cpu", note: str = "") -> Record:
    if model.channels != 1:
        raise InputError("The model is not mono.", remedy="Name one that is: dicose-..., msdm, isdm.")
    values: dict[str, dict[str, dict[str, float]]] = {}  # {stem: {track: {way or "mix": dB}}}
    for track in tracks:
        stems, rate = read(track)
        mix = np.sum(list(stems.values()), axis=0)
        ways: dict[str, Stems] = both_ways(model, mix, rate, device)
        for name in model.sources:
            if name in stems and np.sqrt(np.mean(stems[name] ** 2)) >= HEARD:
                row = {way: si_sdr(stems[name], estimates[name]) for way, estimates in ways.items()}
                values.setdefault(name, {})[track.name] = {"mix": si_sdr(stems[name], mix), **row}
        print(f"{track.name}", file=sys.stderr, flush=True)
    figures = []
    for name, rows in values.items():

        def mean(way: str, rows: Mapping[str, Mapping[str, float]] = rows) -> float:
            return float(np.mean([row[way] for row in rows.values()]))

        figures.append(Figure(f"{name}: SI-SDR of the mix, {len(rows)} tracks", mean("mix"), "dB"))
        figures += [Figure(f"{name}: {way}, above the mix", mean(way) - mean("mix"), "dB") for way in WAYS]
    gains = [
        {track: (row["mid/side"] - row["channels"], 1.0) for track, row in rows.items()}
        for rows in values.values()
    ]
    mean_gain = np.mean([np.mean([gain for gain, _ in column.values()]) for column in gains])
    figures.append(Figure("mid/side above channels, mean of the stems", float(mean_gain), "dB"))
    width = half_width(gains)
    if np.isfinite(width):  # a single track has none
        figures.append(Figure("half of its 95 % interval", width, "dB"))
    settings = {
        "model": type(model).__name__,
        "tracks": len(tracks),
        "device": device,
        "SI-SDR": f"whole tracks, both channels together, not below {FLOOR:g} dB",
        **({"training": note} if note else {}),
    }
    return Record("stereo", settings, figures, values)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--model", required=True, help="a mono model, as for `separate --model`")
    parser.add_argument("--data", type=Path, required=True, help="stereo tracks in stems")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--note", default="", help="how the model was trained, for the record")
    options = parser.parse_args()
    record = bench(
        sepcli.load(options.model), find_tracks(options.data), device=options.device, note=options.note
    )
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
