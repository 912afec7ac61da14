"""How well a model separates songs that it was not trained on: real ones, made ones, and beside a teacher.

    python -m tests.bench.songs --data DATA --model mini --teacher TEACHER --teacher-option masks=network

DATA/valid                two songs in stems; uSDR and museval's medians
DATA/more/instrumentals   six of them, kept out of all training: what the model takes for vocals there, and
DATA/more/bysa/solo       a singer over them in ten mixes, drawn from a seed: true vocals, levels as in songs
DATA/more                 three songs with vocals, kept out too: SNR of the model's vocals to the teacher's
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import sepcli
from sepcli.data.layouts import find_tracks
from sepcli.data.windows import read_window
from sepcli.engine.separator import Separator
from sepcli.metrics.sdr import Sums, frame_samples
from tests.bench import results
from tests.bench.results import Figure, Record

RATE = 44100  # Hz
SEED = 19
MIXES = 10
BELOW = (2.0, 8.0)  # dB, how far the singer is below the instrumental, where both sound
# Not in any training: the instrumentals of the mixes, and the songs on which the teacher is asked.
INSTRUMENTALS = (
    "doctor_turtle_lets_just_get_through_christmas",
    "dub_alta_fidelidad_good_night",
    "holiznacc0_punk",
    "komiku_friends_theme",
    "mr_smith_poor_mans_groove",
    "ultracat_disco_high",
)
SUNG = (
    "bysa/mixes/fantasma_los_rombos",
    "bysa/mixes/joshua_morin_on_the_run",
    "mixes/karissa_hobbs_lets_go_fishin",
)

Wave = NDArray[np.float32]  # [2, T] at RATE


@dataclass(frozen=True)
class Mix:
    """A singer over an instrumental."""

    name: str
    vocals: Wave
    instrumental: Wave


def made(data: Path, seconds: float) -> list[Mix]:
    """The ten mixes: the same for the same seconds, on every machine."""
    rng = np.random.default_rng(SEED)
    singers = sorted((data / "more" / "bysa" / "solo" / "vocals").glob("*.opus"))
    samples, mixes = round(seconds * RATE), []
    for number in range(MIXES):
        name = INSTRUMENTALS[number % len(INSTRUMENTALS)]
        singer = singers[int(rng.integers(len(singers)))]
        instrumental = read_window(instrumental_path(data, name), rng.uniform(5, 50), samples, RATE, 2)
        vocals = read_window(singer, rng.uniform(0, 100), samples, RATE, 2)
        gain = level(instrumental) / level(vocals) * 10 ** (-rng.uniform(*BELOW) / 20)
        mixes.append(Mix(f"{singer.stem} over {name}", np.float32(gain) * vocals, instrumental))
    return mixes


def instrumental_path(data: Path, name: str) -> Path:
    return data / "more" / "instrumentals" / f"{name}.opus"


def level(wave: Wave) -> float:
    """RMS of the tenths of a second that are not 30 dB below the loudest."""
    step = RATE // 10
    power = np.square(wave[:, : wave.shape[1] // step * step].reshape(2, -1, step)).mean((0, 2))
    return float(np.sqrt(power[power > 1e-3 * power.max()].mean()))


def ratios(references: Mapping[str, Wave], stems: Mapping[str, Wave]) -> dict[str, tuple[float, float]]:
    """{stem: (uSDR, museval's median)} in dB, of the stems that have a reference."""
    names = [name for name in stems if name in references]
    sums = Sums(len(names), 2, frame_samples(RATE))
    sums.add(np.stack([references[name] for name in names]), np.stack([stems[name] for name in names]))
    medians = np.nanmedian(sums.museval_sdr(), axis=1)
    return {name: (usdr, median) for name, usdr, median in zip(names, sums.usdr(), medians, strict=True)}


def decibels(signal: Wave, error: Wave) -> float:
    energies = [float(np.square(wave, dtype=np.float64).sum()) + 1e-9 for wave in (signal, error)]
    return float(10 * np.log10(energies[0] / energies[1]))


def separated(model: Separator, mix: Wave) -> dict[str, Wave]:
    stems = sepcli.separate(model, mix, RATE, device="cpu", precision="float32")
    return {name: np.asarray(wave, np.float32) for name, wave in stems.items()}


def bench(model: Separator, data: Path, teacher: Separator | None, seconds: float, settings: dict) -> Record:
    figures: list[Figure] = []
    runs: dict[str, dict[str, list[float]]] = {"songs": {}, "mixes": {}, "instrumentals": {}, "teacher": {}}
    # The two songs in stems, whole.
    found: dict[str, list[tuple[float, float]]] = {}
    for track in find_tracks(data / "valid"):
        samples = round(track.frames * RATE / track.samplerate)
        references = {name: read_window(path, 0, samples, RATE, 2) for name, path in track.stems.items()}
        assert track.mixture is not None, track.name
        rows = ratios(references, separated(model, read_window(track.mixture, 0, samples, RATE, 2)))
        for stem, row in rows.items():
            found.setdefault(stem, []).append(row)
            runs["songs"][f"{track.name} {stem}"] = [round(value, 3) for value in row]
    usdr = {stem: float(np.mean([row[0] for row in rows])) for stem, rows in found.items()}
    figures += [Figure(f"uSDR, two songs, {stem}", value, "dB") for stem, value in usdr.items()]
    figures.append(
        Figure("uSDR, two songs, mean of the stems", float(np.mean(list(usdr.values()))), "dB", ">= 4")
    )
    for stem, rows in found.items():
        median = float(np.nanmedian([row[1] for row in rows]))
        figures.append(Figure(f"museval median, two songs, {stem}", median, "dB"))
    # The ten mixes; what is not vocals counts as one stem.
    rows = []
    for mix in made(data, seconds):
        whole = mix.vocals + mix.instrumental
        vocals = separated(model, whole)["vocals"]
        scores = ratios(
            {"vocals": mix.vocals, "rest": mix.instrumental}, {"vocals": vocals, "rest": whole - vocals}
        )
        rows.append((*scores["vocals"], *scores["rest"]))
        runs["mixes"][mix.name] = [round(value, 3) for value in rows[-1]]
    table = np.array(rows)
    figures += [
        Figure("uSDR, ten mixes, vocals", float(table[:, 0].mean()), "dB"),
        Figure("museval median, ten mixes, vocals", float(np.median(table[:, 1])), "dB"),
        Figure("uSDR, ten mixes, the mix less the vocals", float(table[:, 2].mean()), "dB"),
    ]
    # Music without a voice: the level of what is taken for one.
    leaks = []
    for name in INSTRUMENTALS:
        alone = read_window(instrumental_path(data, name), 20, round(seconds * RATE), RATE, 2)
        leaks.append(decibels(separated(model, alone)["vocals"], alone))
        runs["instrumentals"][name] = [round(leaks[-1], 2)]
    figures.append(Figure("vocals where nobody sings, mean", float(np.mean(leaks)), "dB of the mix", "<= -30"))
    if teacher is not None:
        agreements = []
        for name in SUNG:
            song = read_window(data / "more" / f"{name}.opus", 20, round(3 * seconds * RATE), RATE, 2)
            theirs, ours = separated(teacher, song)["vocals"], separated(model, song)["vocals"]
            agreements.append(decibels(theirs, theirs - ours))
            runs["teacher"][name] = [round(agreements[-1], 2)]
        figures.append(Figure("SNR to the teacher's vocals, mean", float(np.mean(agreements)), "dB", ">= 20"))
    missing = {} if teacher else {"SNR to the teacher's vocals": "no --teacher was given"}
    return Record("songs", settings, figures, runs, missing)


def main() -> None:
    parser: argparse.ArgumentParser = results.arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--teacher", help="a model with vocals, as for --model")
    parser.add_argument("--teacher-option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=20, help="of a mix; the teacher gets thrice as much")
    options = parser.parse_args()
    model = sepcli.load(options.model)
    teacher = None
    if options.teacher:
        chosen = dict(option.split("=", 1) for option in options.teacher_option)
        teacher = sepcli.load(options.teacher, targets=["vocals"], options=chosen)
    settings = {
        "model": Path(options.model).name,
        "teacher": " ".join([Path(options.teacher).name, *options.teacher_option])
        if options.teacher
        else "none",
        "mixes": f"{MIXES} of {options.seconds:g} s, seed {SEED}, vocals {BELOW[0]:g} to {BELOW[1]:g} dB below",
    }
    record = bench(model, options.data, teacher, options.seconds, settings)
    for kind, rows in record.runs.items():
        for name, values in rows.items():
            print(f"  {kind}: {name}: {' '.join(f'{value:.2f}' for value in values)}")
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
