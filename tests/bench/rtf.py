"""The real time factor as in the HT Demucs slides: time for 40 s of Gaussian noise over 40 s; one thread."""

from __future__ import annotations

from pathlib import Path

from tests.bench import results, sound
from tests.bench.inprocess import measure, ours, theirs
from tests.bench.results import Figure, Record
from tests.bench.weights import Weights, make


def bench(work: Path, weights: Weights, *, seconds: float = 40, runs: int = 3) -> Record:
    track = sound.noise(work / "noise.wav", seconds)
    found = {each[0]: measure(each, track, runs=runs) for each in (ours(weights), theirs(weights))}
    rtf = {program: min(each["seconds"]) / seconds for program, each in found.items()}
    figures = [Figure(f"RTF, {program}", value) for program, value in rtf.items()]
    figures.append(Figure("RTF, sepcli / demucs", rtf["sepcli"] / rtf["demucs"]))
    settings = {
        "audio": f"{seconds:g} s of Gaussian noise, stereo, 44.1 kHz",
        "network": weights.name,
        "precision": "float32",
        "threads": 1,
        "runs": f"best of {runs} after one that is not counted",
    }
    return Record("rtf", settings, figures, found)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with results.workplace(options.work) as work:
        record = bench(work, make("htdemucs", work / "weights"), runs=options.runs)
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
