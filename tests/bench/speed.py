"""CPU and wall time of `sepcli separate` and `demucs`: whole processes, in turns, same clip and weights."""

from __future__ import annotations

import json
from pathlib import Path

from sepcli.engine.device import cpu_has_bfloat16
from tests.bench import results, sound
from tests.bench.programs import DEMUCS_FLOAT, SEPCLI_FLOAT, Cost, demucs, interleaved, sepcli, shown
from tests.bench.results import Figure, Record
from tests.bench.weights import Weights, make


def bench(
    work: Path, weights: Weights, *, seconds: float = 60, runs: int = 3, threads: int = 2, reduced: str = "auto"
) -> Record:
    """reduced: the --precision to compare with float32; "auto" is left out where it is float32 anyway."""
    track = sound.music(work / "clip.wav", seconds)

    def ours(precision: str) -> list[str]:
        options = ("--device", "cpu", "--shifts", "0", "--precision", precision, *SEPCLI_FLOAT)
        return sepcli(track, weights, work / precision, *options)

    commands = {"demucs": demucs(track, weights, work / "demucs", "-d", "cpu", *DEMUCS_FLOAT)}
    commands["sepcli float32"] = ours("float32")
    not_measured = {}
    if reduced != "auto" or cpu_has_bfloat16():
        commands[f"sepcli {reduced}"] = ours(reduced)
    else:
        not_measured["precision auto"] = "this processor has no native bfloat16, so auto is float32"
    costs = interleaved(commands, runs, threads)
    figures = _float32(costs, sound.worst_snr(work / "float32", work / "demucs"))
    if f"sepcli {reduced}" in costs:
        used = json.loads(costs[f"sepcli {reduced}"][0].output)["precision"]
        if used == "float32":
            not_measured[f"precision {reduced}"] = "sepcli took float32, as the catalogue declares no `half`"
        else:
            name = used if reduced == used else f"{reduced} ({used})"
            figures += _reduced(name, costs["demucs"], costs[f"sepcli {reduced}"])
            snr = sound.worst_snr(work / reduced, work / "float32")
            figures.append(Figure(f"SNR of {name} against float32, worst stem", snr, "dB", ">= 40"))
    settings = {
        "audio": f"{seconds:g} s of stereo music at 44.1 kHz",
        "network": weights.name,
        "threads": threads,
        "runs": f"best of {runs}, in turns",
        **{name: shown(command, work) for name, command in commands.items()},
    }
    each_run = {name: [cost.as_json() for cost in each] for name, each in costs.items()}
    return Record("speed", settings, figures, each_run, not_measured)


def _float32(costs: dict[str, list[Cost]], snr: float) -> list[Figure]:
    figures = []
    for kind, what, target, aim in (("cpu", "CPU time", "<= 0.8", "<= 0.6"), ("wall", "wall time", "", "")):
        theirs = min(getattr(cost, kind) for cost in costs["demucs"])
        mine = min(getattr(cost, kind) for cost in costs["sepcli float32"])
        figures += [
            Figure(f"{what}, demucs", theirs, "s"),
            Figure(f"{what}, sepcli in float32", mine, "s"),
            Figure(f"{what}, sepcli in float32 / demucs", mine / theirs, "", target, aim),
        ]
    return [*figures, Figure("SNR of sepcli in float32 against demucs, worst stem", snr, "dB", ">= 85")]


def _reduced(name: str, theirs: list[Cost], mine: list[Cost]) -> list[Figure]:
    wall = min(cost.wall for cost in mine)
    ratio = wall / min(cost.wall for cost in theirs)
    return [
        Figure(f"CPU time, sepcli in {name}", min(cost.cpu for cost in mine), "s"),
        Figure(f"wall time, sepcli in {name}", wall, "s"),
        Figure(f"wall time, sepcli in {name} / demucs", ratio, "", "<= 0.5", "<= 0.33"),
    ]


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reduced", default="auto", help="bfloat16: measure it whatever auto would take")
    options = parser.parse_args()
    with results.workplace(options.work) as work:
        weights = make("htdemucs", work / "weights")
        record = bench(
            work,
            weights,
            seconds=options.seconds,
            runs=options.runs,
            threads=options.threads,
            reduced=options.reduced,
        )
    results.finish(record, options.name)


if __name__ == "__main__":
    main()
