"""Peak resident memory of `sepcli separate` for audio of different lengths, compared with `demucs`.

The programs have their defaults, so 16-bit stems and a temporary file are written too: an hour of audio needs
about 9 GB of disk, in --work or in the folder for temporary files.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.bench import results, sound
from tests.bench.programs import Cost, demucs, run, sepcli, shown
from tests.bench.results import Figure, Record
from tests.bench.weights import Weights, make

THREADS = 2
CPU = ("--device", "cpu", "--precision", "float32")


def bench(
    work: Path,
    small: Weights,
    full: Weights | None = None,
    *,
    minutes: Sequence[float] = (3, 60),
    full_minutes: Sequence[float] = (3,),
    demucs_minutes: Sequence[float] = (),
) -> Record:
    """minutes: of the shortest and the longest track for the small network."""
    costs: dict[str, Cost] = {}
    commands: dict[str, str] = {}

    def measure(name: str, length: float, command: list[str]) -> Figure:
        cost = costs[f"{name}, {length:g} min"] = run(command, THREADS)
        commands.setdefault(name, shown(command, work))
        shutil.rmtree(work / "out")
        return Figure(f"peak, {name}, {length:g} min", cost.peak / 1e6, "MB")

    def track(length: float) -> Path:
        path = work / f"{length:g} min.wav"
        return path if path.exists() else sound.music(path, 60 * length)

    figures = [
        measure("sepcli, small network", length, sepcli(track(length), small, work / "out", *CPU))
        for length in minutes
    ]
    growth = figures[-1].value - figures[0].value
    name = f"{minutes[-1]:g} min above {minutes[0]:g} min, small network"
    figures.append(Figure(name, growth, "MB", "<= 100"))
    for length in full_minutes if full else ():
        figure = measure("sepcli, full size", length, sepcli(track(length), full, work / "out", *CPU))
        figures.append(Figure(figure.name, figure.value, "MB", "<= 1600"))
    for length in demucs_minutes:
        command = demucs(track(length), small, work / "out", "-d", "cpu")
        figures.append(measure("demucs, small network", length, command))
    not_measured = {}
    if not full or max(minutes) not in full_minutes:
        why = f"it takes long; --full {max(minutes):g} does it"
        not_measured[f"full size, {max(minutes):g} min"] = why
    if not demucs_minutes:
        not_measured["demucs"] = "left out; --demucs does it"
    settings = {"audio": "stereo music at 44.1 kHz, 16-bit WAV", "threads": THREADS, **commands}
    return Record(
        "memory", settings, figures, {name: cost.as_json() for name, cost in costs.items()}, not_measured
    )


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--minutes", type=float, nargs=2, default=[3, 60], help="of the small network")
    parser.add_argument("--full", type=float, nargs="*", default=[3], help="minutes of the full-size network")
    parser.add_argument(
        "--demucs",
        type=float,
        nargs="*",
        default=[],
        metavar="MIN",
        help="minutes of the small network for demucs, 3 for instance; it holds all in memory",
    )
    options = parser.parse_args()
    with results.workplace(options.work) as work:
        small = make("small", work / "weights")
        full = make("htdemucs", work / "weights") if options.full else None
        record = bench(
            work, small, full, minutes=options.minutes, full_minutes=options.full, demucs_minutes=options.demucs
        )
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
