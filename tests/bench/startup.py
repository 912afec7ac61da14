"""The time that `sepcli` needs before any work: `--help`, `models list` and a dry run."""

from __future__ import annotations

from pathlib import Path

from tests.bench import results, sound
from tests.bench.programs import SEPCLI, Cost, run, shown
from tests.bench.results import Figure, Record

SONG = "song.wav"
TARGETS = {("--help",): "<= 0.35", ("models", "list"): "<= 0.5", ("separate", SONG, "--dry-run"): "<= 0.5"}


def bench(work: Path, *, runs: int = 10) -> Record:
    figures, costs, settings = [], {}, {"runs": f"best of {runs}; the first one also reads the catalogue"}
    song = sound.music(work / SONG, 10)
    for arguments, target in TARGETS.items():
        command = [*SEPCLI, *(str(song) if argument == SONG else argument for argument in arguments)]
        each: list[Cost] = [run(command, 1, HF_HOME=str(work)) for _ in range(runs)]
        name = f"sepcli {' '.join(arguments)}"
        figures.append(Figure(f"CPU time, {name}", min(cost.cpu for cost in each), "s", target))
        figures.append(Figure(f"peak memory, {name}", min(cost.peak for cost in each) / 1e6, "MB"))
        costs[name] = [cost.as_json() for cost in each]
        settings[name] = shown(command, work)
    return Record("startup", settings, figures, costs)


def main() -> None:
    options = results.arguments(__doc__).parse_args()
    with results.workplace(options.work) as work:
        results.finish(bench(work), options.name)


if __name__ == "__main__":
    main()
