"""A student of `sepcli distill --method output`, compared with its teacher and with itself without one.

    sepcli distill --method output --teacher mini --student mini-student --data MUSIC --valid SONGS -o with
    sepcli train --preset mini-student --data STEMS_OF_THAT_MUSIC --valid SONGS -o without
    python -m tests.bench.distillation --teacher mini --student with --control without --data SONGS

Mean uSDR as in training; CPU time for separating noise through the engine, in one process and in turns.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from sepcli.data.layouts import find_tracks
from sepcli.engine.device import tune_process
from sepcli.engine.pipeline import Engine, Stats
from sepcli.engine.separator import Separator
from sepcli.engine.settings import Settings
from sepcli.evaluation.validation import mean_scores
from sepcli.loading import load_model
from tests.bench import results
from tests.bench.results import Figure, Record

SECONDS, RUNS = 30, 3


def times(models: dict[str, Separator]) -> dict[str, list[float]]:
    """{name: CPU seconds of each run}; a first run of each is not counted."""
    cpu = torch.device("cpu")
    engines = {name: Engine(model, Settings(), cpu, torch.float32) for name, model in models.items()}
    found: dict[str, list[float]] = {name: [] for name in models}
    level = Stats(torch.zeros(1), torch.full((1,), 0.1), 0)  # of the noise, for models with `normalize`
    for _ in range(RUNS + 1):
        for name, model in models.items():
            noise = (
                torch.randn(
                    1, model.channels, SECONDS * model.samplerate, generator=torch.Generator().manual_seed(0)
                )
                * 0.1
            )
            start = time.process_time()
            for _block in engines[name].separate(iter(noise.split(65536, dim=-1)), level):
                pass
            found[name].append(time.process_time() - start)
    return {name: seconds[1:] for name, seconds in found.items()}


def main() -> None:
    parser = results.arguments(__doc__)
    for role in ("teacher", "student", "control"):
        parser.add_argument(f"--{role}", required=True)
    parser.add_argument("--note", default="", help="how they were trained, for the record")
    parser.add_argument("--data", type=Path, required=True, help="validation songs in stems")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tune_process()
    models = {role: load_model(getattr(options, role)).model for role in ("teacher", "student", "control")}
    tracks, means = find_tracks(options.data), {}
    for role, model in models.items():
        scores = mean_scores(model, tracks, torch.device("cpu"))
        means[role] = sum(scores.values()) / len(scores)
    taken = times({role: models[role] for role in ("teacher", "student")})
    figures = [Figure(f"mean uSDR, {role}", mean, "dB") for role, mean in means.items()]
    figures += [
        Figure("student below its teacher", means["teacher"] - means["student"], "dB", "<= 1.5"),
        Figure("student above the same without a teacher", means["student"] - means["control"], "dB", ">= 0"),
        Figure("time, student / teacher", min(taken["student"]) / min(taken["teacher"]), "", "<= 0.333"),
    ]
    settings = {
        "songs": ", ".join(track.name for track in tracks),
        "time": f"CPU time of {SECONDS} s of noise, float32, one thread, best of {RUNS} in turns",
        **({"models": options.note} if options.note else {}),
    }
    results.finish(Record("distillation", settings, figures, {"seconds": taken}), options.name)


if __name__ == "__main__":
    main()
