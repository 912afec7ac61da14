"""The time that `sepcli` needs beside the work: `--help`, `models list`, a dry run, and a short clip by `duo`.

Of the clip, all that is neither the import of torch nor the network: the start, our own imports, the weights,
decoding and writing. The network is the first pass of a process that has loaded it, array in, array out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sepcli.weights.catalog import DEFAULT_MODEL
from tests.bench import inprocess, results, sound
from tests.bench.programs import SEPCLI, Cost, run, shown
from tests.bench.results import Figure, Record

SONG = "song.wav"
TARGETS = {("--help",): "<= 0.35", ("models", "list"): "<= 0.4", ("separate", SONG, "--dry-run"): "<= 0.5"}
CLIP = ("separate", SONG, "-m", DEFAULT_MODEL, "-o", "stems", "--device", "cpu", "--no-resume", "--force")
SECONDS = 10
ABOVE = "<= 0.6"  # CPU seconds of the clip above torch and the network


def bench(work: Path, *, runs: int = 10) -> Record:
    figures, costs, settings = (
        [],
        {},
        {"runs": f"best of {runs}; the first one also reads the catalogue"},
    )
    song = sound.music(work / SONG, SECONDS)
    # As it is installed: byte code is kept, here in a folder of its own.
    variables = {"HF_HOME": str(work), "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(work / "code")}
    places = {SONG: str(song), "stems": str(work / "stems")}

    def measured(arguments: tuple[str, ...]) -> float:
        """CPU seconds, and the figures of all runs."""
        command = [*SEPCLI, *(places.get(argument, argument) for argument in arguments)]
        each: list[Cost] = [run(command, 1, **variables) for _ in range(runs)]
        name = f"sepcli {' '.join(arguments)}"
        costs[name] = [cost.as_json() for cost in each]
        settings[name] = shown(command, work)
        best = min(cost.cpu for cost in each)
        figures.append(Figure(f"CPU time, {name}", best, "s", TARGETS.get(arguments, "")))
        figures.append(Figure(f"peak memory, {name}", min(cost.peak for cost in each) / 1e6, "MB"))
        return best

    for arguments in TARGETS:
        measured(arguments)
    clip = measured(CLIP)
    imports = [run([sys.executable, "-c", "import torch"], 1) for _ in range(runs)]
    torch = min(cost.cpu for cost in imports)
    passes = [
        inprocess.measure(["sepcli", DEFAULT_MODEL], song, precision="auto", runs=0)["first_cpu"]
        for _ in range(runs)
    ]
    costs["import torch"], costs["network"] = [cost.as_json() for cost in imports], passes
    figures += [
        Figure("CPU time, import torch", torch, "s"),
        Figure(f"CPU time, the network itself, {SECONDS} s", min(passes), "s"),
        Figure(f"CPU time, {SECONDS} s above torch and the network", clip - torch - min(passes), "s", ABOVE),
    ]
    return Record("startup", settings, figures, costs)


def main() -> None:
    options = results.arguments(__doc__).parse_args()
    with results.workplace(options.work) as work:
        results.finish(bench(work), options.name)


if __name__ == "__main__":
    main()
