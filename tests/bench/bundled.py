"""The bundled model as it is used: size, speed in `auto` and in float32, and how well those agree."""

from __future__ import annotations

import json
from pathlib import Path

from sepcli.weights.catalog import DEFAULT_MODEL, load_catalog
from tests.bench import results, sound
from tests.bench.programs import SEPCLI, SEPCLI_FLOAT, interleaved, shown
from tests.bench.results import Figure, Record


def bench(work: Path, *, seconds: float = 180, runs: int = 3, threads: int = 2) -> Record:
    track = sound.music(work / "clip.wav", seconds)
    commands = {
        precision: [
            *SEPCLI,
            "separate",
            str(track),
            "--model",
            DEFAULT_MODEL,
            "--out",
            str(work / precision),
            "--device",
            "cpu",
            "--precision",
            precision,
            "--json",
            "--no-resume",
            "--force",
            *SEPCLI_FLOAT,
        ]
        for precision in ("auto", "float32")
    }
    costs = interleaved(commands, runs, threads)
    entry = load_catalog()[DEFAULT_MODEL]
    figures = [Figure("size of the weights", (entry.size or 0) / 1e6, "MB", "<= 24")]
    for precision in ("auto", "float32"):
        said = [json.loads(cost.output) for cost in costs[precision]]
        name = precision if precision == "float32" else f"auto ({said[0]['precision']})"
        figures += [
            Figure(f"separation, {name}", seconds / min(one["seconds"] for one in said), "x realtime"),
            Figure(
                f"whole process, {name}", seconds / min(c.wall for c in costs[precision]), "x realtime", ">= 8"
            ),
            Figure(f"peak memory, {name}", max(c.peak for c in costs[precision]) / 1e6, "MB", "<= 1300"),
        ]
    if json.loads(costs["auto"][0].output)["precision"] != "float32":
        snr = sound.worst_snr(work / "auto", work / "float32")
        figures.append(Figure("SNR of auto against float32, worst stem", snr, "dB"))
    settings = {
        "audio": f"{seconds:g} s of stereo music at 44.1 kHz",
        "threads": threads,
        "runs": f"best of {runs}, in turns",
        **{name: shown(line, work) for name, line in commands.items()},
    }
    each_run = {name: [cost.as_json() for cost in each] for name, each in costs.items()}
    return Record("bundled", settings, figures, each_run)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with results.workplace(options.work) as work:
        record = bench(work, seconds=options.seconds, runs=options.runs)
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
