"""Every family's usual network: its parameters, its work, and the processor time of a second of audio.

    python -m tests.bench.families [NAME...]       these networks, or all; each row is written as it comes

Random weights, float32, one thread. A network gets one call of its usual length of music (10 s where it takes
any length), twice; the faster one counts, divided by the seconds that the call is for: margins are work, but no
result. What samples takes the published number of steps. Overlap, files and loading are not in it.
docs/lineage.md is made of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile
import torch

from sepcli.engine.noise import Noise
from sepcli.engine.separator import Queryable, Separator
from sepcli.models.config import make_config
from sepcli.models.family import get_family
from sepcli.training.config import read_preset
from sepcli.weights.catalog import load_catalog
from tests.bench import results, sound
from tests.bench.cost import SECONDS, networks_of, work_of
from tests.bench.results import Figure, Record

NAME = "families"


@dataclass(frozen=True)
class Network:
    """Where the settings of a network stand: an entry of the catalogue, a preset, or its family's defaults."""

    entry: str = ""
    preset: str = ""
    family: str = ""
    arch: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


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
    "msdm": Network(preset="msdm"),
    "isdm": Network(preset="isdm"),
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


def made(network: Network) -> list[Separator]:
    """Its separators with fresh weights: one, or those of all members."""
    torch.manual_seed(0)
    if network.entry:
        return [*networks_of(load_catalog(())[network.entry], torch.device("cpu"))]
    if network.preset:
        model = read_preset(network.preset)["model"]
        arch, config = get_family(model["family"]).arch(model["arch"]), model.get("config", {})
    else:
        arch, config = get_family(network.family).arch(network.arch), network.config
    return [arch.build(make_config(arch, config)).eval()]


def measure(label: str, music: torch.Tensor, runs: int = 2) -> dict[str, float]:
    """parameters; work: GFLOP, and cpu: seconds, for a second of audio. music: [2, T] at 44.1 kHz."""
    found = {"parameters": 0.0, "work": 0.0, "cpu": 0.0}
    for model in made(NETWORKS[label]):
        found["parameters"] += sum(tensor.numel() for tensor in model.parameters())
        if isinstance(model, Queryable) and not model.sources:
            example = music[: model.channels, : int(2 * model.min_query * model.samplerate)]
            model = model.bind({"example": example})
        samples = model.segment.samples or round(SECONDS * model.samplerate)
        useful = (samples - 2 * model.segment.margin) / model.samplerate
        mix = music.repeat(1, -(-samples // music.shape[-1]))[: model.channels, :samples][None]
        noise = Noise(0, [0], [0])
        with torch.inference_mode():
            model.prepare(samples, torch.device("cpu"), torch.float32)
            seconds = []
            for _ in range(runs):
                start = time.process_time()
                model(mix, noise=noise)
                seconds.append(time.process_time() - start)
        found["cpu"] += min(seconds) / useful
        found["work"] += work_of(model, mix, noise) / useful
    return found


def bench(labels: list[str], record: Path, music: torch.Tensor) -> Record:
    """The rows that `record` has, with new ones for these networks."""
    rows = json.loads(record.read_text())["runs"] if record.exists() else {}
    for label in labels:
        rows[label] = {key: float(f"{value:.6g}") for key, value in measure(label, music).items()}
        print(label, rows[label], flush=True)
    rows = {label: rows[label] for label in NETWORKS if label in rows}
    figures = [
        Figure(f"{name}, {label}", row[key], unit)
        for label, row in rows.items()
        for key, name, unit in (("cpu", "CPU time of a second", "s"), ("work", "work of a second", "GFLOP"))
    ]
    missing = {label: "its row was not run yet" for label in NETWORKS if label not in rows}
    return Record(NAME, {"threads": torch.get_num_threads(), "precision": "float32"}, figures, rows, missing)


def main() -> None:
    parser = results.arguments(__doc__)
    parser.add_argument("networks", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    music = torch.from_numpy(soundfile.read(sound.CLIP, dtype="float32")[0].T.copy())
    record = results.FOLDER / f"{options.name or NAME}.json"
    for label in options.networks or NETWORKS:
        bench([label], record, music).write(options.name or NAME)
    results.finish(bench([], record, music), options.name)


if __name__ == "__main__":
    main()
