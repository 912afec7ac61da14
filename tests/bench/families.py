"""Every family's usual network: its parameters, its work, and what a second of audio costs, in several ways.

    python -m tests.bench.families [NAME...]                     these networks, or all
    python -m tests.bench.families --ways float32,1 [NAME...]    in this way only; the others' figures are kept,
                                                                 and work is not counted again

A way is a precision and a number of threads; bfloat16 only where the model declares `half`. Weights are random.
Each way of a network has a process of its own and is written as soon as it ends. It makes one call of the usual
length of music (10 s where it takes any length), and a second one if that took less than LONG; the faster one
counts, divided by the seconds that the call is for: margins are work, but no result. What samples takes the
published number of steps; if that takes too long, two small numbers, and the published one lies on their line.
Overlap, files and loading are not in it; what the process holds at most is.

Before and behind the calls it multiplies large matrices, in the same precision and by as many threads: the best
of them is the machine's peak of that minute, of which a network reaches a share. docs/benchmarks.md and
docs/lineage.md are made of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import nn

from sepcli.engine.device import dtype_of, tune_process
from sepcli.engine.noise import Noise
from sepcli.engine.separator import Queryable, Separator
from sepcli.models.config import make_config
from sepcli.models.family import get_family
from sepcli.training.config import read_preset
from sepcli.weights.catalog import load_catalog
from tests.bench import results, sound
from tests.bench.cost import SECONDS, networks_of, work_of
from tests.bench.programs import run
from tests.bench.results import Figure, Record

NAME = "families"
WAYS = ("float32,1", "float32,2", "bfloat16,1", "bfloat16,2")  # precision, threads
LONG = 20.0  # seconds of a call that is made once only
REACHED = 0.6  # aim: share of the peak
_SIZE, _ENOUGH = 2048, 0.5  # rows of the matrices, and seconds of multiplying them

Row = dict[str, Any]  # parameters, work in GFLOP of a second, ways: {way: cpu, wall, products, memory}


@dataclass(frozen=True)
class Network:
    """Where the settings of a network stand: an entry of the catalogue, a preset, or its family's defaults."""

    entry: str = ""
    preset: str = ""
    family: str = ""
    arch: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[int, int] | None = None  # of sampling, instead of the published number: it is calculated


NETWORKS = {
    "mini": Network(entry="mini"),
    "htdemucs": Network(entry="htdemucs"),
    "sparse-htdemucs": Network(preset="sparse-htdemucs"),
    "hdemucs": Network(entry="hdemucs_mmi"),
    "mdx": Network(entry="mdx"),
    "demucs-v2": Network(entry="demucs-v2"),
    "demucs-gibbs": Network(preset="demucs-gibbs"),
    "conv-tasnet": Network(entry="tasnet-v2"),
    "lasaft-v1": Network(entry="lasaft-v1-large"),
    "lasaft-v2": Network(entry="lasaft-v2-large"),
    "lasaft-v2-light": Network(entry="lasaft-v2-light"),
    "lasaft-query": Network(preset="lasaft-query"),
    "dicose-det": Network(entry="dicose-det"),
    "dicose-diffusion": Network(entry="dicose-diffusion"),
    "dicose-cd": Network(entry="dicose-cd"),
    "msdm": Network(preset="msdm", steps=(2, 3)),
    "isdm": Network(preset="isdm", steps=(2, 3)),
    "ldm": Network(preset="ldm-stage2"),
    "encodec": Network(entry="encodec-48k"),
    "spleeter": Network(entry="spleeter-4stems"),
    "umxhq": Network(entry="umxhq"),
    "xumx": Network(family="openunmix", arch="XUMX"),
    "cunet": Network(preset="cunet"),
    "d3net": Network(entry="d3net"),
    "bsrnn": Network(preset="bsrnn"),
    "bsrnn-simo-opt": Network(entry="bsrnn-simo-opt"),
    "kuielab-a": Network(entry="mdx-kuielab-a-mixer"),
    "mdx23c": Network(entry="mdx23c-zfturbo-4stems"),
    "scnet": Network(entry="scnet-small"),
    "scnet-xl-ihf": Network(entry="scnet-xl-ihf"),
    "bs-roformer": Network(entry="bs-roformer-zfturbo-4stems"),
    "mel-roformer": Network(entry="mel-roformer-kim"),
    "resunet143": Network(entry="resunet143"),
    "mobilenet": Network(entry="mobilenet-subband"),
    "waveunet-m5": Network(family="waveunet", arch="WaveUNet"),
    "danna-unet": Network(family="danna", arch="UNetAttn"),
    "danna-demucs": Network(family="danna", arch="DemucsSplit"),
    "meta-tasnet": Network(family="metatasnet", arch="MetaTasNet"),
    "waveunet-torch": Network(family="waveunet", arch="WaveUNetTorch"),
}


def made(network: Network, device: str = "cpu") -> Iterator[Separator]:
    """Its separators with fresh weights: one, or those of all members, one after another."""
    torch.manual_seed(0)
    if network.entry:
        yield from networks_of(load_catalog(())[network.entry], torch.device(device))
        return
    if network.preset:
        model = read_preset(network.preset)["model"]
        arch, config = get_family(model["family"]).arch(model["arch"]), model.get("config", {})
    else:
        arch, config = get_family(network.family).arch(network.arch), network.config
    with torch.device(device):
        model = arch.build(make_config(arch, config)).eval()
    yield model  # out here, or whoever takes it would go on under this device


def ways_of(network: Network, wanted: Sequence[str] = WAYS) -> list[str]:
    """Those of these ways that it may run in."""
    half = bool(network.entry) and load_catalog(())[network.entry].half
    return [way for way in wanted if half or way.startswith("float32")]


# --- in a process of its own ---


def calls(
    network: Network, music: torch.Tensor, device: str = "cpu"
) -> Iterator[tuple[Separator, torch.Tensor, float]]:
    """Each of its separators, the [1, C, T] mix of a call, and the seconds of music that the call is for.

    music: [2, T] at 44.1 kHz.
    """
    for model in made(network, device):
        mono_or_stereo = music[: model.channels].to(device)
        if isinstance(model, Queryable):
            example = mono_or_stereo[:, : int(2 * model.min_query * model.samplerate)]
            model = model.bind(dict.fromkeys(model.sources or ("example",), example))
        samples = model.segment.samples or round(SECONDS * model.samplerate)
        mix = mono_or_stereo.repeat(1, -(-samples // music.shape[-1]))[None, :, :samples]
        yield model, mix, (samples - 2 * model.segment.margin) / model.samplerate


def count(network: Network, music: torch.Tensor) -> Row:
    """parameters, and the work of a second of audio in GFLOP; without values where that goes."""
    if any(isinstance(part, nn.RNNBase) for model in made(network, "meta") for part in model.modules()):
        return _count(network, music, "cpu")  # without values, recurrent layers go step by step
    try:
        return _count(network, music, "meta")
    except (NotImplementedError, RuntimeError):  # values are needed on the way
        return _count(network, music, "cpu")


def _count(network: Network, music: torch.Tensor, device: str) -> Row:
    found: Row = {"parameters": 0, "work": 0.0}
    for model, mix, useful in calls(network, music, device):
        found["parameters"] += sum(tensor.numel() for tensor in model.parameters())
        with torch.inference_mode(), torch.device(device):
            model.prepare(mix.shape[-1], torch.device(device), torch.float32)
            [work] = _with_all_steps(_work, model, mix, network.steps)
            found["work"] += work / useful
    if network.steps:
        found |= {"steps": list(network.steps)}
    return found


def _with_all_steps(
    cost_of: Callable[[Any, torch.Tensor], Sequence[float]],
    model: Any,
    mix: torch.Tensor,
    steps: tuple[int, int] | None,
) -> Sequence[float]:
    """What a call costs; with the model's number of steps by two calls with fewer, if such are given."""
    if steps is None:
        return cost_of(model, mix)
    options, costs = model.options, []
    for number in steps:
        model.options = replace(options, steps=number)
        costs.append(cost_of(model, mix))
    model.options = options
    share = (options.steps - steps[0]) / (steps[1] - steps[0])
    return [few + (more - few) * share for few, more in zip(*costs, strict=True)]


def _work(model: Separator, mix: torch.Tensor) -> tuple[float]:
    return (work_of(model, mix, Noise(0, [0], [0]), lstms=True),)


def measure(network: Network, way: str, music: torch.Tensor) -> dict[str, float]:
    """cpu and wall: seconds for a second of audio; products: GFLOP/s of matrix products at the same time."""
    precision, threads = way.split(",")
    dtype = dtype_of(precision)
    tune_process(int(threads))
    # What one thread takes alone is its processor time, whatever else the machine does.
    alone = threads == "1"
    clock = time.process_time if alone else time.perf_counter
    found = {"cpu": 0.0, "wall": 0.0, "products": products(dtype, clock)}
    for model, mix, useful in calls(network, music):
        with torch.inference_mode():
            model.prepare(mix.shape[-1], torch.device("cpu"), dtype)
            wall, cpu = _with_all_steps(_best, model, mix, network.steps)
        found["wall"] += (cpu if alone else wall) / useful
        found["cpu"] += cpu / useful
    found["products"] = max(found["products"], products(dtype, clock))
    return found


def _best(model: Separator, mix: torch.Tensor) -> tuple[float, float]:
    """Wall and processor time of a call; of the faster one of two short ones."""
    cost = _timed(model, mix)
    return cost if cost[0] >= LONG else min(cost, _timed(model, mix))


def _timed(model: Separator, mix: torch.Tensor) -> tuple[float, float]:
    """Wall and processor time of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    model(mix, noise=Noise(0, [0], [0]))
    return time.perf_counter() - wall, time.process_time() - cpu


def products(dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> float:
    """GFLOP/s of the fastest matrix product. clock: in seconds."""
    one = torch.rand(_SIZE, _SIZE).to(dtype)
    best, begun = float("inf"), time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - begun < _ENOUGH:
            start = clock()
            one @ one
            best = min(best, clock() - start)
    return 2 * _SIZE**3 / best / 1e9


# --- all of them ---


def apart(label: str, way: str) -> Row:
    """What `measure` finds in a process of its own, and its memory in MB; for "work", what `count` finds.

    RuntimeError where the process fails.
    """
    threads = 1 if way == "work" else int(way.split(",")[1])
    cost = run([sys.executable, "-m", "tests.bench.families", label, "--only", way], threads)
    found = json.loads(cost.output)
    return found if way == "work" else {**found, "memory": cost.peak / 1e6}


def bench(
    labels: Sequence[str],
    record: Path,
    ways: Sequence[str] = WAYS,
    one: Callable[[str, str], Row] = apart,
) -> Iterator[Record]:
    """The rows that `record` has, with those of these networks measured anew, way by way."""
    rows: dict[str, Row] = json.loads(record.read_text())["runs"] if record.exists() else {}
    for label in labels:
        counted = "work" in rows.get(label, {}) and len(ways) < len(WAYS)
        for way in (*(() if counted else ("work",)), *ways_of(NETWORKS[label], ways)):
            try:
                found = _rounded(one(label, way))
            except RuntimeError as error:  # its process failed; the next one may not
                print(label, way, error, file=sys.stderr, flush=True)
                if way == "work":
                    break
                continue
            print(label, way, found, flush=True)
            row = rows.setdefault(label, {"ways": {}})
            if way == "work":
                row.update(found)
                continue
            row["ways"][way] = found
            yield _record(rows)


def _rounded(found: Row) -> Row:
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in found.items()}


def _record(rows: Mapping[str, Row]) -> Record:
    figures = [
        Figure(
            f"{label}, {way}: share of the peak",
            row["work"] / found["wall"] / found["products"],
            "",
            "",
            f">= {REACHED}",
        )
        for label, row in rows.items()
        for way, found in row["ways"].items()
        if "wall" in found  # an older bench had the processor time only
    ]
    missing = {}
    for label, network in NETWORKS.items():
        ways = rows.get(label, {"ways": {}})["ways"]
        left = [way for way in ways_of(network) if "wall" not in ways.get(way, {})]
        if left:
            missing[label] = f"not run yet: {'; '.join(left)}"
    ordered = {label: rows[label] for label in NETWORKS if label in rows}
    return Record(NAME, {"audio": "one call of each network"}, figures, ordered, missing)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("networks", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, metavar="WAY", help="; ".join(WAYS))
    parser.add_argument(
        "--only", metavar="WAY", help="print the figures of one network in this way, or its `work`"
    )
    options = parser.parse_args()
    if options.only:
        music = torch.from_numpy(soundfile.read(sound.CLIP, dtype="float32")[0].T.copy())
        [label] = options.networks
        found = (
            count(NETWORKS[label], music)
            if options.only == "work"
            else measure(NETWORKS[label], options.only, music)
        )
        print(json.dumps(found))
        return
    name = options.name or NAME
    for record in bench(options.networks or list(NETWORKS), results.FOLDER / f"{name}.json", options.ways):
        record.write(name)
    print(f"{name}.json: now run python docs/generate.py")


if __name__ == "__main__":
    main()
