"""Batch size and precision on a CUDA device, compared with demucs on it: separation alone, then the programs.

Needs only torch, the packages that sepcli imports, and demucs with its requirements. Without CUDA the exit code
is 2.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench import results, sound
from tests.bench.inprocess import measure
from tests.bench.programs import DEMUCS_FLOAT, SEPCLI_FLOAT, demucs, interleaved, sepcli, shown
from tests.bench.results import Figure, Record
from tests.bench.weights import Weights, make

THREADS = 4  # of the CPU


def bench(
    work: Path,
    weights: Weights,
    *,
    seconds: float = 240,
    runs: int = 3,
    device: str = "cuda",
    precisions: Sequence[str] = ("float32", "float16"),
    batches: Sequence[str] = ("auto", "1"),
) -> Record:
    track = sound.music(work / "track.wav", seconds)
    figures, record = [], {}
    theirs = measure("demucs", weights, track, device=device, runs=runs, threads=THREADS)
    record["separation, demucs"] = theirs
    figures.append(Figure("separation alone, demucs", min(theirs["seconds"]), "s"))
    for precision, batch in itertools.product(precisions, batches):
        mine = measure(
            "sepcli",
            weights,
            track,
            device=device,
            precision=precision,
            batch=batch,
            runs=runs,
            threads=THREADS,
        )
        name = f"{precision}, batch {batch}" + (f" ({mine['batch']})" if batch == "auto" else "")
        record[f"separation, sepcli, {name}"] = mine
        best = min(mine["seconds"])
        figures.append(Figure(f"separation alone, sepcli, {name}", best, "s"))
        figures.append(
            Figure(
                f"separation alone, speed of sepcli over demucs, {name}",
                min(theirs["seconds"]) / best,
                "x",
                aim=">= 5",
            )
        )
        if mine["peak"]:
            figures.append(Figure(f"device memory, sepcli, {name}", mine["peak"] / 1e6, "MB"))
    if theirs["peak"]:
        figures.append(Figure("device memory, demucs", theirs["peak"] / 1e6, "MB"))

    commands = {"demucs": demucs(track, weights, work / "demucs", "-d", device, *DEMUCS_FLOAT)}
    for precision in precisions:
        commands[f"sepcli {precision}"] = sepcli(
            track, weights, work / precision, "--device", device, "--precision", precision, *SEPCLI_FLOAT
        )
    costs = interleaved(commands, runs, THREADS)
    wall = {name: min(cost.wall for cost in each) for name, each in costs.items()}
    for name, value in wall.items():
        figures.append(Figure(f"whole program, {name}", value, "s"))
        if name != "demucs":
            figures.append(
                Figure(f"whole program, speed of {name} over demucs", wall["demucs"] / value, "x", aim=">= 5")
            )
    record |= {f"program, {name}": [cost.as_json() for cost in each] for name, each in costs.items()}
    for precision in precisions:
        against = "demucs" if precision == "float32" else "float32"
        figures.append(
            Figure(
                f"SNR of {precision} against {against}, worst stem",
                sound.worst_snr(work / precision, work / against),
                "dB",
                "" if precision == "float32" else ">= 40",
            )
        )
        used = json.loads(costs[f"sepcli {precision}"][0].output)
        assert used["precision"] == precision, used
    settings = {
        "audio": f"{seconds:g} s of stereo music at 44.1 kHz",
        "network": weights.name,
        "runs": f"best of {runs}",
        **{name: shown(command, work) for name, command in commands.items()},
    }
    return Record("gpu", settings, figures, record, device=theirs["device"])


def main() -> None:
    import torch

    parser = results.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device", file=sys.stderr)
        raise SystemExit(2)
    with results.workplace(options.work) as work:
        weights = make("htdemucs", work / "weights")
        record = bench(work, weights, seconds=options.seconds, runs=options.runs)
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
